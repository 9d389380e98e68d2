"""The life of a node's process: ready file, health, exit codes, the lock of the data directory, restart after SIGKILL."""

from __future__ import annotations

import subprocess
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
