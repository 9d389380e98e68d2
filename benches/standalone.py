"""Measures one standalone node from outside: start, memory, import, index build, search, restart after kill -9.

Use: python3 benches/standalone.py [--binary target/release/vectorsphere] [--rows 100000]
Needs numpy. Data is made here from a seed (clustered, low-rank vectors); everything runs on loopback in a temporary
directory and ends with the script. Prints one line a figure. Processor time is that of the node's process.
"""
import argparse, json, os, signal, subprocess, tempfile, time, urllib.request

import numpy as np

TICKS = os.sysconf("SC_CLK_TCK")


class Node:
    def __init__(self, binary, directory, *flags):
        self.ready = os.path.join(directory, "ready.json")
        if os.path.exists(self.ready):
            os.remove(self.ready)
        command = [binary, "serve", "--data-dir", os.path.join(directory, "data"), "--ready-file", self.ready,
                   "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--monitoring", "127.0.0.1:0", *flags]
        started = time.perf_counter()
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not os.path.exists(self.ready):
            time.sleep(0.0005)
            if self.process.poll() is not None:
                raise SystemExit("the node did not start")
        self.start_ms = (time.perf_counter() - started) * 1e3
        self.url = "http://" + json.load(open(self.ready))["http"]

    def call(self, method, path, body=None, kind="application/json"):
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind}, method=method)
        return json.load(urllib.request.urlopen(request, timeout=300))

    def cpu(self):
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_mib(self):
        lines = open(f"/proc/{self.process.pid}/status").read().splitlines()
        return next(int(l.split()[1]) for l in lines if l.startswith("VmRSS")) / 1024

    def wait_trained(self, table):
        while self.call("GET", f"/api/v1/tables/{table}")["index"]["state"] != "ready":
            time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0


def data(rows, dimension, seed):
    """Mixture of 1,000 Gaussians in a 24-dimensional subspace, plus noise; base and 1,000 queries of the same kind."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((1000, 24)) * 1.5
    points = centers[rng.integers(0, 1000, rows + 1000)] + rng.standard_normal((rows + 1000, 24))
    x = (points @ rng.standard_normal((24, dimension)) + 0.3 * rng.standard_normal((rows + 1000, dimension)))
    x = x.astype(np.float32)
    return x[1000:], x[:1000]


def truth(base, queries, k=10):
    b2 = (base.astype(np.float64) ** 2).sum(1)
    out = []
    for chunk in np.array_split(queries, 20):
        d = b2 - 2 * chunk.astype(np.float64) @ base.T.astype(np.float64)
        part = np.argpartition(d, k, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(d, part, 1), axis=1)
        out.append(np.take_along_axis(part, order, 1))
    return np.concatenate(out).astype(np.int32)


def bulk(base, first):
    ids = np.arange(first, first + len(base), dtype="<u8")
    return np.array([len(base), base.shape[1]], "<u4").tobytes() + ids.tobytes() + base.astype("<f4").tobytes()


def timed_import(node, table, bodies, kind, rows):
    path = f"/api/v1/tables/{table}/documents"
    wall, cpu = time.perf_counter(), node.cpu()
    for body in bodies:
        node.call("POST", path, body, kind)
    wall, cpu = time.perf_counter() - wall, node.cpu() - cpu
    return f"{rows / cpu:,.0f} rows/s of node CPU, {rows / wall:,.0f} rows/s wall"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--binary", default="target/release/vectorsphere")
    arguments.add_argument("--rows", type=int, default=100_000)
    options = arguments.parse_args()
    rows, say = options.rows, lambda name, value: print(f"{name:44} {value}", flush=True)
    base, queries = data(rows, 128, 1)
    say("binary", f"{os.path.getsize(options.binary) / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as directory:
        first = Node(options.binary, directory)
        say("start to ready, first start", f"{first.start_ms:.1f} ms")
        first.stop()
        starts = []
        for _ in range(9):
            node = Node(options.binary, directory)
            starts.append(node.start_ms)
            if len(starts) < 9:
                node.stop()
        say("start to ready, empty, median of 9", f"{np.median(starts):.1f} ms")
        time.sleep(1)
        say("resident, idle", f"{node.rss_mib():.1f} MiB")

        node.call("POST", "/api/v1/tables", {"table_name": "flat", "dimension": 128, "index_type": "flat", "metric": "euclidean"})
        some = min(20_000, rows)
        bodies = [json.dumps({"documents": [{"document_id": int(i), "vector": [round(float(c), 6) for c in base[i]],
                                             "metadata": {"n": int(i)}} for i in range(at, min(at + 500, some))]}).encode()
                  for at in range(0, some, 500)]
        say("durable import, JSON, 500 a request", timed_import(node, "flat", bodies, "application/json", some))
        bodies = [bulk(base[at:at + 2000], at) for at in range(0, rows, 2000)]
        node.call("DELETE", "/api/v1/tables/flat")
        node.call("POST", "/api/v1/tables", {"table_name": "flat", "dimension": 128, "index_type": "flat", "metric": "euclidean"})
        say("durable import, binary, 2,000 a request, flat", timed_import(node, "flat", bodies, "application/octet-stream", rows))
        node.call("DELETE", "/api/v1/tables/flat")

        node.call("POST", "/api/v1/tables", {"table_name": "ivf", "dimension": 128, "metric": "euclidean"})
        cpu = node.cpu()
        for body in bodies:
            node.call("POST", "/api/v1/tables/ivf/documents", body, "application/octet-stream")
        node.wait_trained("ivf")
        say(f"import and train {rows:,} × 128, node CPU", f"{node.cpu() - cpu:.2f} s")
        say("resident with that table", f"{node.rss_mib():.0f} MiB")
        q, t = os.path.join(directory, "q.npy"), os.path.join(directory, "t.npy")
        np.save(q, queries), np.save(t, truth(base, queries))
        bench = [options.binary, "bench", "--endpoint", node.url, "--table", "ivf", "--queries", q, "--ground-truth", t,
                 "-k", "10", "--requests", "5000", "-o", "json"]
        for connections in (1, 4):
            cpu = node.cpu()
            report = json.loads(subprocess.run([*bench, "--concurrency", str(connections)], check=True, capture_output=True).stdout)
            say(f"search, {connections} connection(s)", json.dumps(report)[:600])
            say("  node CPU a request, warm-up included", f"{(node.cpu() - cpu) / 5000 * 1e6:.0f} µs at most")
        node.stop()
    with tempfile.TemporaryDirectory() as directory:
        base, queries = data(50_000, 384, 2)
        node = Node(options.binary, directory)
        node.call("POST", "/api/v1/tables", {"table_name": "t", "dimension": 384, "metric": "cosine"})
        for at in range(0, len(base), 1000):
            node.call("POST", "/api/v1/tables/t/documents", bulk(base[at:at + 1000], at), "application/octet-stream")
        node.wait_trained("t")
        time.sleep(3)
        node.kill()
        node = Node(options.binary, directory)
        assert node.call("GET", "/api/v1/tables/t")["documents_count"] == len(base)
        before = time.perf_counter()
        hits = node.call("POST", "/api/v1/tables/t/search", {"vector": base[7].tolist(), "top_k": 1})["results"]
        assert hits[0]["document_id"] == 7
        say("kill -9 with 50k × 384: start to ready", f"{node.start_ms:.0f} ms, first search {(time.perf_counter() - before) * 1e3:.1f} ms")
        node.stop()


if __name__ == "__main__":
    main()
