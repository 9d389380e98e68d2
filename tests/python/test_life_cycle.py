"""The life of a node's process: ready file, health, exit codes, the lock of the data directory, restart after SIGKILL."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable

import requests

from node import Node, clean_environment

EXIT_USAGE = 2
EXIT_DATA_IN_USE = 3
TIMEOUT_S = 30.0


def run(node: Node, *more: str) -> subprocess.CompletedProcess:
    """Runs the node's command to its end, which must come by itself."""
    return subprocess.run(
        [*node.command(), *more],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=clean_environment(),
    )


def test_the_ready_file_tells_addresses_and_pid(node: Node) -> None:
    assert node.addresses["pid"] == node.pid
    for name in ("http", "grpc", "monitoring"):
        assert name in node.addresses
    assert not node.url.endswith(":0"), "a listener of port 0 must report the port it was given"


def test_health_answers(node: Node, http: requests.Session) -> None:
    for url in (f"{node.url}/livez", f"{node.url}/readyz", f"{node.url}/health", f"{node.monitoring_url}/health"):
        assert http.get(url, timeout=TIMEOUT_S).status_code == 200, url


def test_metrics_are_served_in_base_units(node: Node, http: requests.Session) -> None:
    answer = http.get(f"{node.monitoring_url}/metrics", timeout=TIMEOUT_S)
    assert answer.status_code == 200
    names = [line.split(" ")[2] for line in answer.text.splitlines() if line.startswith("# TYPE ")]
    assert names, "no metric at all"
    assert len(names) == len(set(names)), "a metric is declared twice"
    wrong = [name for name in names if name.endswith(("_ms", "_us", "_kb", "_mb", "_percent"))]
    assert wrong == [], "base units only: seconds, bytes, ratios"


def test_sigterm_ends_with_zero(node: Node) -> None:
    assert node.stop() == 0


def test_a_second_process_is_refused_the_directory(node: Node) -> None:
    second = run(node)
    assert second.returncode == EXIT_DATA_IN_USE, second.stderr
    assert str(node.home / "data") in second.stderr + second.stdout, "the message must name the directory"
    assert node.is_running


def test_an_unknown_key_is_refused_with_a_suggestion(make_node: Callable[..., Node]) -> None:
    refused = run(make_node(), "--set", "log.levle=debug")
    assert refused.returncode == EXIT_USAGE, refused.stderr
    assert "log.level" in refused.stderr, "did you mean log.level?"


def test_an_unknown_flag_is_refused(make_node: Callable[..., Node]) -> None:
    assert run(make_node(), "--no-such-flag").returncode == EXIT_USAGE


def test_acknowledged_documents_survive_sigkill(node: Node, http: requests.Session) -> None:
    table = {"table_name": "kept", "dimension": 4, "metric": "euclidean"}
    assert http.post(f"{node.url}/api/v1/tables", json=table, timeout=TIMEOUT_S).status_code == 201
    for number in range(50):
        document = {"document_id": f"doc{number}", "vector": [number, 1, 2, 3], "metadata": {"n": number}}
        answer = http.post(f"{node.url}/api/v1/tables/kept/documents", json=document, timeout=TIMEOUT_S)
        assert answer.status_code == 200, answer.text
    node.kill()
    node.start()
    for number in range(50):
        found = http.get(f"{node.url}/api/v1/tables/kept/documents/doc{number}", timeout=TIMEOUT_S)
        assert found.status_code == 200, found.text
        assert found.json()["metadata"] == {"n": number}
    query = {"vector": [17, 1, 2, 3], "top_k": 1}
    results = http.post(f"{node.url}/api/v1/tables/kept/search", json=query, timeout=TIMEOUT_S).json()["results"]
    assert [result["document_id"] for result in results] == ["doc17"]


def test_sigkill_in_the_middle_of_a_batch_import_loses_nothing_acknowledged(node: Node, http: requests.Session) -> None:
    table = {"table_name": "torn", "dimension": 8, "metric": "dot"}
    assert http.post(f"{node.url}/api/v1/tables", json=table, timeout=TIMEOUT_S).status_code == 201
    batch, acknowledged, begun = 200, [], []

    def importing() -> None:
        url = f"{node.url}/api/v1/tables/torn/documents"
        with requests.Session() as session:
            for number in range(10_000):
                ids = range(number * batch, (number + 1) * batch)
                documents = [{"document_id": i, "vector": [i % 97, 1, 2, 3, 4, 5, 6, 7]} for i in ids]
                begun.append(number)
                try:
                    answer = session.post(url, json={"documents": documents}, timeout=TIMEOUT_S)
                except requests.RequestException:
                    return
                if answer.status_code == 200:
                    acknowledged.append(number)

    importer = threading.Thread(target=importing)
    importer.start()
    while len(acknowledged) < 10:
        assert importer.is_alive()
        time.sleep(0.005)
    node.kill()
    importer.join(TIMEOUT_S)
    assert not importer.is_alive()
    node.start()
    stored, cursor = set(), None
    while True:
        page = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
        answer = http.post(f"{node.url}/api/v1/tables/torn/documents/list", json=page, timeout=TIMEOUT_S).json()
        stored.update(document["document_id"] for document in answer["documents"])
        cursor = answer["cursor"]
        if cursor is None:
            break
    for number in acknowledged:
        assert all(i in stored for i in range(number * batch, (number + 1) * batch)), f"batch {number} was acknowledged"
    for number in set(begun) - set(acknowledged):
        kept = sum(i in stored for i in range(number * batch, (number + 1) * batch))
        assert kept in (0, batch), "a batch is there whole or not at all"
    assert len(stored) <= len(begun) * batch
