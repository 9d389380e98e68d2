"""Search of one core, side by side: VectorSphere's index beside faiss-cpu, scann and hnswlib, on the same vectors, in one sitting.

Use: python3 benches/ann/side_by_side.py --base base.npy --query query.npy --metric cosine
     (files of float32, one vector a row; `cargo build --release` first)

Makes a Python environment with the peers if the one it runs in lacks them (--venv, default target/bench-venv), and prints one
table in Markdown. What it measures, for everyone alike:

- Every engine builds in one process and searches in another, which opens the index from a file; both on one thread, pinned to
  one core (--cpu). Engines follow each other, nothing runs at the same time.
- The clock is processor time: of the build, and of each query asked by itself, of which the least of three repetitions counts.
  QPS is 1 / the mean. "Batch" is one call with all queries on one thread, with the two settings next to the recall.
- Recall@k is the share of answers whose true distance is not above the k-th true one (ties count). QPS at a recall is read off
  the frontier of all settings measured, between its two neighbours (logarithms of QPS and of what is missed).
- Memory is what the searching process grew by while it opened the index and searched, file pages included. The peers' includes
  the f32 vectors they re-score with. Here those belong to the store: the row "int8" does without them, the row "f32" reads them.

The peers are called through their Python packages, which costs a query some microseconds; the batch column is free of that.
"""
import argparse, json, math, os, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PEERS = ["numpy", "faiss-cpu", "scann", "hnswlib"]
MODULES = ["numpy", "faiss", "scann", "hnswlib"]
TARGETS = [0.90, 0.95, 0.99]
BATCH_TARGET = 0.95
PROBES = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
EFFORTS = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400, 600, 1000]
REPETITIONS = 3
# Settings on the frontier of a pilot are measured in full; the pilot asks so many queries.
PILOT_QUERIES = 200


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--query", required=True)
    parser.add_argument("--metric", choices=["cosine", "euclidean", "dot"], required=True)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--queries", type=int, default=1000, help="at most so many of the file")
    parser.add_argument("--engines", default="vectorsphere-f32,vectorsphere-int8,faiss,scann,hnswlib")
    parser.add_argument("--binary", default=os.path.join(ROOT, "target", "release", "vectorsphere"))
    parser.add_argument("--venv", default=os.path.join(ROOT, "target", "bench-venv"))
    parser.add_argument("--cpu", type=int, default=0)
    parser.add_argument("--json", help="write every setting measured here as well")
    # Of the processes this one starts.
    parser.add_argument("--step", choices=["build", "search"], help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
    if args.step:
        return {"build": build_step, "search": search_step}[args.step](args)
    enter_environment(args)
    import numpy as np
    if any(name.startswith("vectorsphere") for name in args.engines.split(",")) and not os.path.exists(args.binary):
        raise SystemExit(f"{args.binary} is not there: cargo build --release, or --binary")
    with tempfile.TemporaryDirectory() as directory:
        base, queries = load(args)
        np.save(os.path.join(directory, "base.npy"), base)
        np.save(os.path.join(directory, "query.npy"), queries)
        np.save(os.path.join(directory, "limits.npy"), true_limits(base, queries, args))
        shape = f"{len(base):,} × {base.shape[1]}, {args.metric}, {len(queries):,} queries"
        del base
        measured = [measure(name, args, directory) for name in args.engines.split(",")]
    print(f"\n{shape}, recall@{args.k}, one thread, processor time\n")
    print(table([one for one in measured if one]))
    if args.json:
        json.dump(measured, open(args.json, "w"), indent=1)


def enter_environment(args):
    """Goes on in an environment that has the peers: this one, or one made for it."""
    wanted = [module for engine, module in zip(["", "faiss", "scann", "hnswlib"], MODULES) if engine in args.engines]
    probe = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(m) is None for m in sys.argv[1:]))"
    has = lambda python: subprocess.run([python, "-c", probe, *wanted]).returncode == 0
    if has(sys.executable):
        return
    python = os.path.join(args.venv, "bin", "python")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", args.venv], check=True)
    if not has(python):
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS], check=True)
    os.execv(python, [python, *sys.argv])


def load(args):
    """Base and queries in float32, of unit length for the cosine."""
    import numpy as np
    base = np.ascontiguousarray(np.load(args.base), np.float32)
    queries = np.ascontiguousarray(np.load(args.query)[: args.queries], np.float32)
    if args.metric == "cosine":
        for rows in (base, queries):
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    return base, queries


def distances(vectors, query, metric):
    """In float64, the smaller the nearer."""
    vectors, query = vectors.astype("float64"), query.astype("float64")
    return ((vectors - query) ** 2).sum(1) if metric == "euclidean" else -(vectors @ query)


def true_limits(base, queries, args):
    """The k-th true distance of each query. Candidates by float32, decided by float64."""
    import numpy as np
    limits = np.empty(len(queries))
    squares = (base ** 2).sum(1) if args.metric == "euclidean" else 0.0
    for first in range(0, len(queries), 50):
        block = queries[first:first + 50]
        rough = squares - (2.0 if args.metric == "euclidean" else 1.0) * (block @ base.T)
        near = np.argpartition(rough, 2 * args.k, axis=1)[:, : 2 * args.k]
        for i, rows in enumerate(near):
            limits[first + i] = np.sort(distances(base[rows], block[i], args.metric))[args.k - 1]
    return limits


def recall(found, base, queries, limits, args):
    import numpy as np
    hits = 0
    for query, limit, ids in zip(queries, limits, found):
        ids = np.unique([i for i in ids if 0 <= i < len(base)]).astype(int)
        true = distances(base[ids], query, args.metric) if len(ids) else np.empty(0)
        hits += min(args.k, int((true <= limit + 1e-5 * max(1.0, abs(limit))).sum()))
    return hits / (args.k * len(found))


def measure(name, args, directory):
    """Builds and searches in processes of their own; prints what was measured so far."""
    print(f"{name} …", file=sys.stderr, flush=True)
    result = {"engine": name}
    for step in ["build", "search"]:
        command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--step", step, "--directory", directory]
        at = command.index("--engines") if "--engines" in command else None
        if at:
            del command[at:at + 2]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run([*command, "--engines", name], stdout=subprocess.PIPE, env=environment)
        if done.returncode != 0:
            print(f"{name}: {step} failed with exit code {done.returncode}", file=sys.stderr)
            return None
        result.update(json.loads(done.stdout.decode().strip().splitlines()[-1]))
    return result


def build_step(args):
    os.sched_setaffinity(0, {args.cpu})
    print(json.dumps(engine_of(args).build()))


def search_step(args):
    import numpy as np
    os.sched_setaffinity(0, {args.cpu})
    part = lambda name: np.load(os.path.join(args.directory, name))
    base, queries, limits = part("base.npy"), part("query.npy"), part("limits.npy")
    engine = engine_of(args)
    before = resident_bytes()
    engine.open(base)
    score = lambda found: recall(found, base, queries, limits, args)
    pilot = []
    for setting in engine.settings():
        found, seconds = engine.run(queries[:PILOT_QUERIES], setting, 1)
        pilot.append({"setting": setting, "recall": score(found), "qps": len(found) / seconds})
    points = []
    for point in frontier(pilot, lambda recall: 0.8 <= recall <= 0.9985):
        found, seconds = engine.run(queries, point["setting"], REPETITIONS)
        points.append({"setting": point["setting"], "recall": score(found), "qps": len(found) / seconds})
    result = {"points": points, "memory_bytes": engine.memory_bytes(before)}
    qps = lambda setting: len(queries) / min(engine.batch(queries, setting) for _ in range(REPETITIONS))
    result["batch"] = [{**point, "qps": qps(point["setting"])} for point in around(points, BATCH_TARGET)]
    print(json.dumps(result))


def around(points, target):
    """The frontier's neighbours of a recall."""
    front = frontier(points)
    below = [point for point in front if point["recall"] < target][-1:]
    return below + [point for point in front if point["recall"] >= target][:1]


def frontier(points, keep=lambda recall: True):
    """Points that no other beats in both recall and QPS, by recall; those whose recall is of no interest only at the ends."""
    best, front = 0.0, []
    for point in sorted(points, key=lambda point: (-point["recall"], -point["qps"])):
        if point["qps"] > best:
            best = point["qps"]
            front.insert(0, point)
    below = [point for point in front if point["recall"] < 0.8][-1:]
    above = [point for point in front if point["recall"] > 0.9985][:1]
    inner = [point for point in front if keep(point["recall"])]
    return front if len(inner) == len(front) else below + inner + above


def qps_at(points, target):
    """Read off the frontier between the two neighbours of the target; None beyond its ends."""
    missed = lambda point: math.log(max(1e-4, 1 - point["recall"]))
    front = frontier(points)
    for low, high in zip(front, front[1:]):
        if low["recall"] <= target <= high["recall"]:
            wide = missed(low) - missed(high)
            share = (missed(low) - math.log(1 - target)) / wide if wide else 0.0
            return math.exp(math.log(low["qps"]) * (1 - share) + math.log(high["qps"]) * share)
    # A first point above the target: at least as fast there.
    return front[0]["qps"] if front and front[0]["recall"] > target else None


def table(measured):
    lines = ["| | " + " | ".join(f"QPS at {target:.2f}" for target in TARGETS) + " | batch at .95 | build, CPU s | memory, MiB |",
             "|---|" + "--:|" * (len(TARGETS) + 3)]
    number = lambda value: "–" if value is None else f"{value:,.0f}"
    for one in measured:
        cells = [number(qps_at(one["points"], target)) for target in TARGETS]
        cells += [number(qps_at(one["batch"], BATCH_TARGET)), f"{one['build_seconds']:.1f}", number(one["memory_bytes"] / 2**20)]
        lines.append(f"| {one['label']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def resident_bytes():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) * 1024


def lists_of(rows):
    """About 1.75 √rows lists, a power of two: of the numbers tried on 340,000 rows the one that served the peers best."""
    return 2 ** round(math.log2(1.75 * math.sqrt(rows)))


def engine_of(args):
    return {"faiss": Faiss, "scann": Scann, "hnswlib": Hnswlib, "vectorsphere-f32": VectorSphere,
            "vectorsphere-int8": VectorSphere}[args.engines](args)


class Engine:
    """One engine: `build` saves to a file and says what it took, `open` and `one` search, `batch` takes all at once."""

    def __init__(self, args):
        self.args, self.k, self.inner = args, args.k, args.metric != "euclidean"
        self.file = os.path.join(args.directory, args.engines)

    def build(self):
        import numpy as np
        base = np.load(os.path.join(self.args.directory, "base.npy"))
        label, start = self.label(len(base)), time.process_time()
        self.make(base)
        seconds = time.process_time() - start
        self.save()
        return {"build_seconds": seconds, "label": label}

    def run(self, queries, setting, repetitions):
        """The answers, and the seconds of all queries: of each the least."""
        least, clock = [float("inf")] * len(queries), time.process_time_ns
        for repetition in range(repetitions + 1):
            found = []
            for i, query in enumerate(queries if repetition else queries[:20]):
                start = clock()
                answer = self.one(query, setting)
                spent = clock() - start
                # The first twenty, once more than counted, warm up.
                if repetition:
                    least[i] = min(least[i], spent)
                    found.append(answer)
        return found, sum(least) / 1e9

    def batch(self, queries, setting):
        start = time.process_time()
        self.all(queries, setting)
        return time.process_time() - start

    def memory_bytes(self, before):
        return resident_bytes() - before


class Faiss(Engine):
    def label(self, rows):
        import faiss
        return f"faiss {faiss.__version__} {self.factory(rows)}"

    def factory(self, rows):
        return f"IVF{lists_of(rows)},PQ{self.dimension() // 2}x4fs,RFlat"

    def dimension(self):
        import numpy as np
        return np.load(os.path.join(self.args.directory, "base.npy"), mmap_mode="r").shape[1]

    def make(self, base):
        import faiss
        faiss.omp_set_num_threads(1)
        metric = faiss.METRIC_INNER_PRODUCT if self.inner else faiss.METRIC_L2
        self.index = faiss.index_factory(base.shape[1], self.factory(len(base)), metric)
        self.index.train(base)
        self.index.add(base)

    def save(self):
        import faiss
        faiss.write_index(self.index, self.file)

    def open(self, base):
        import faiss
        faiss.omp_set_num_threads(1)
        self.index, self.kept = faiss.read_index(self.file), {}

    def settings(self):
        return [(nprobe, factor) for nprobe in PROBES for factor in (5, 10, 20, 50)]

    def parameters(self, setting):
        import faiss
        key = tuple(setting)
        if key not in self.kept:
            inner = faiss.IVFSearchParameters(nprobe=key[0])
            outer = faiss.IndexRefineSearchParameters(k_factor=key[1], base_index_params=inner)
            # The outer one does not keep the inner one alive.
            self.kept[key] = (outer, inner)
        return self.kept[key][0]

    def one(self, query, setting):
        return self.index.search(query[None], self.k, params=self.parameters(setting))[1][0]

    def all(self, queries, setting):
        return self.index.search(queries, self.k, params=self.parameters(setting))[1]


class Scann(Engine):
    def label(self, rows):
        from importlib.metadata import version
        return f"scann {version('scann')} tree {lists_of(rows)}, AH 2, f32"

    def make(self, base):
        from scann.scann_ops.py import scann_ops_pybind
        measure = "dot_product" if self.inner else "squared_l2"
        builder = scann_ops_pybind.builder(base, self.k, measure).set_n_training_threads(1)
        builder = builder.tree(lists_of(len(base)), 10, training_sample_size=min(len(base), 250_000))
        threshold = 0.2 if self.inner else float("nan")
        self.index = builder.score_ah(2, anisotropic_quantization_threshold=threshold).reorder(100).build()

    def save(self):
        os.makedirs(self.file, exist_ok=True)
        self.index.serialize(self.file)

    def open(self, base):
        from scann.scann_ops.py import scann_ops_pybind
        self.index = scann_ops_pybind.load_searcher(self.file)
        self.index.set_num_threads(1)

    def settings(self):
        return [(leaves, reorder) for leaves in PROBES for reorder in (30, 60, 120, 240)]

    def one(self, query, setting):
        return self.index.search(query, self.k, setting[1], setting[0])[0]

    def all(self, queries, setting):
        return self.index.search_batched(queries, self.k, setting[1], setting[0])[0]


class Hnswlib(Engine):
    def label(self, rows):
        from importlib.metadata import version
        return f"hnswlib {version('hnswlib')} M 16, ef 128"

    def empty(self, dimension):
        import hnswlib
        return hnswlib.Index(space="ip" if self.inner else "l2", dim=dimension)

    def make(self, base):
        self.index = self.empty(base.shape[1])
        self.index.init_index(max_elements=len(base), M=16, ef_construction=128, random_seed=1)
        self.index.add_items(base, num_threads=1)

    def save(self):
        self.index.save_index(self.file)

    def open(self, base):
        self.index = self.empty(base.shape[1])
        self.index.load_index(self.file)

    def settings(self):
        return [effort for effort in EFFORTS if effort >= self.k]

    def all(self, queries, setting):
        self.index.set_ef(setting)
        return self.index.knn_query(queries, k=self.k, num_threads=1)[0].astype("int64")

    def one(self, query, setting):
        return self.all(query, setting)[0]


class VectorSphere(Engine):
    """`vectorsphere bench ann`, which measures itself: the same clock, least of the same repetitions, no Python in between."""

    def call(self, query_file, setting, repetitions, batch=1):
        files = {"base": os.path.join(self.args.directory, "base.npy"), "query": query_file, "index": self.file,
                 "out": self.file + ".out"}
        command = [self.args.binary, "--output", "json", "bench", "ann", "--metric", self.args.metric, "-k", str(self.k),
                   "--rerank", self.args.engines.rsplit("-", 1)[1], "--reps", str(repetitions),
                   "--batch", str(batch), *setting]
        for name, path in files.items():
            command += [f"--{name}", path]
        report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        lines = open(files["out"]).read().splitlines()
        found = [[int(i) for i in line.split()] for line in lines if not line.startswith("#")]
        figures = dict(line[1:].split() for line in lines if line.startswith("#"))
        return found, {name: float(value) for name, value in figures.items()}, report

    def build(self):
        query = os.path.join(self.args.directory, "query.npy")
        _, figures, report = self.call(query, [], 1)
        rerank = self.args.engines.rsplit("-", 1)[1]
        return {"build_seconds": figures["build"], "label": f"VectorSphere ({report['kernels']}), re-score {rerank}"}

    def open(self, base):
        self.memory = 0

    def settings(self):
        targets = [["--recall-target", str(target)] for target in (0.8, 0.85, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99, 0.995)]
        chosen = [["--nprobe", str(nprobe), "--candidates", str(candidates)]
                  for nprobe in PROBES[2:13] for candidates in (40, 100, 250)]
        return targets + chosen

    def run(self, queries, setting, repetitions):
        found, figures, _ = self.call(self.save_queries(queries), setting, repetitions)
        self.memory = max(self.memory, figures["bytes"])
        return found, figures["time"]

    def batch(self, queries, setting):
        return self.call(self.save_queries(queries), setting, REPETITIONS, len(queries))[1]["time"]

    def save_queries(self, queries):
        import numpy as np
        query = self.file + ".query.npy"
        np.save(query, queries)
        return query

    def memory_bytes(self, before):
        return self.memory


if __name__ == "__main__":
    main()
