"""Makes a data set of image descriptors for side_by_side.py: 128-d SIFT of the interest points of photographs, euclidean.

Use: python3 benches/ann/descriptors.py --photos DIRECTORY --out sift     (writes sift.base.npy and sift.query.npy)
     python3 benches/ann/side_by_side.py --base sift.base.npy --query sift.query.npy --metric euclidean

Needs the PyPI package opencv-python-headless. Any directory with photographs (*.jpg, looked for in all its folders) will do; the
figures in benches/README.md (--rows 300000) are of the Debian packages mate-backgrounds (its nature folder), lomiri-wallpapers-16.04,
lomiri-wallpapers-20.04, ukui-wallpapers and plasma-workspace-wallpapers (2560x1600), unpacked with `dpkg-deb -x`.

Every eighth photograph gives queries only, so that no query is a patch that overlaps one of the base. Rows that are the same are
kept once. The same photographs and the same version of OpenCV give the same files.
"""
import argparse, pathlib


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--out", required=True, help="what the files' names begin with")
    parser.add_argument("--rows", type=int, default=500_000, help="at most so many in the base, chosen at random")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--least-size", type=int, default=1_000, help="pixels a side that a photograph has at least")
    return parser.parse_args()


def descriptors(photo, least_size):
    """Of all interest points; None where the file is no photograph or too small."""
    import cv2
    image = cv2.imread(str(photo), cv2.IMREAD_GRAYSCALE)
    if image is None or min(image.shape) < least_size:
        return None
    # Weak points too: a photograph has some thousands of strong ones.
    return cv2.SIFT_create(contrastThreshold=0.004, edgeThreshold=20).detectAndCompute(image, None)[1]


def sample(parts, count, chance):
    import numpy as np
    rows = np.unique(np.concatenate(parts), axis=0)
    return np.ascontiguousarray(rows[chance.permutation(len(rows))[:count]], np.float32)


def main():
    import numpy as np
    args = arguments()
    base, queries = [], []
    for photo in sorted(pathlib.Path(args.photos).rglob("*.jpg")):
        found = descriptors(photo, args.least_size)
        if found is None:
            continue
        of_queries = (len(base) + len(queries)) % 8 == 7
        (queries if of_queries else base).append(found)
        print(f"{len(found):8,}  {'queries' if of_queries else 'base   '}  {photo}", flush=True)
    if not base or not queries:
        raise SystemExit(f"{args.photos}: eight photographs are needed at least, {len(base)} found")
    chance = np.random.default_rng(1)
    base, queries = sample(base, args.rows, chance), sample(queries, args.queries, chance)
    np.save(f"{args.out}.base.npy", base)
    np.save(f"{args.out}.query.npy", queries)
    print(f"{len(base):,} rows, {len(queries):,} queries, {base.shape[1]} dimensions")


if __name__ == "__main__":
    main()
