"""The native REST face end to end: the seeds' calls as written, every call once, and the shape of errors."""

from __future__ import annotations

import gzip
import json
import random
import struct

import pytest
import requests

from node import Node

TIMEOUT_S = 30.0


class Api:
    """The calls of one node, by method and path below `/api/v1`."""

    def __init__(self, http: requests.Session, base: str) -> None:
        self._http = http
        self._base = base

    def __call__(self, method: str, path: str, **options) -> requests.Response:
        return self._http.request(method, f"{self._base}/api/v1{path}", timeout=TIMEOUT_S, **options)

    def ok(self, method: str, path: str, status: int = 200, **options) -> dict:
        answer = self(method, path, **options)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
def api(http: requests.Session, shared_node: Node) -> Api:
    return Api(http, shared_node.url)


@pytest.fixture
def table(api: Api, table_name: str) -> str:
    """A table of dimension 3 with documents `a`, `b` and 7."""
    api.ok("POST", "/tables", 201, json={"table_name": table_name, "dimension": 3, "metric": "dot", "index_type": "flat"})
    documents = [
        {"document_id": "a", "vector": [1, 0, 0], "metadata": {"lang": "en", "year": 2001}},
        {"document_id": "b", "vector": [0, 1, 0], "metadata": {"lang": "de", "year": 2020}},
        {"document_id": 7, "vector": [0, 0, 1]},
    ]
    answer = api.ok("POST", f"/tables/{table_name}/documents", json={"documents": documents})
    assert answer["document_ids"] == ["a", "b", 7]
    return table_name


def test_the_calls_of_the_seeds(http: requests.Session, node: Node) -> None:
    """Create, add, search, status and health with the bodies of the seeds, sent as curl sends them."""
    base = node.url
    headers = {"Content-Type": "application/json"}
    vector = [round(random.Random(1).uniform(-1, 1), 4) for _ in range(128)]

    def post(path: str, body: str) -> requests.Response:
        return http.post(base + path, data=body, headers=headers, timeout=TIMEOUT_S)

    create = '{\n    "table_name": "my_vectors",\n    "dimension": 128,\n    "index_type": "flat"\n  }'
    created = post("/api/v1/tables", create)
    assert (created.status_code, created.json()["index_type"]) == (201, "flat"), created.text
    document = {"document_id": "doc1", "vector": vector, "metadata": {"title": "Example Document"}}
    added = post("/api/v1/tables/my_vectors/documents", json.dumps(document))
    assert (added.status_code, added.json()["document_ids"]) == (200, ["doc1"]), added.text
    found = post("/api/v1/tables/my_vectors/search", json.dumps({"vector": vector, "top_k": 10, "threshold": 0.8}))
    assert found.status_code == 200, found.text
    (hit,) = found.json()["results"]
    assert (hit["document_id"], hit["metadata"]) == ("doc1", {"title": "Example Document"})
    assert hit["score"] == pytest.approx(1.0, abs=1e-4)
    for path in ("/health", "/api/v1/cluster/status", "/api/v1/cluster/nodes"):
        assert http.get(base + path, timeout=TIMEOUT_S).status_code == 200
    assert post("/api/v1/tables", create).status_code == 409


def test_tables_are_created_listed_and_deleted(api: Api, table: str) -> None:
    assert table in [one["table_name"] for one in api.ok("GET", "/tables")["tables"]]
    one = api.ok("GET", f"/tables/{table}")
    assert (one["dimension"], one["metric"], one["index_type"]) == (3, "dot", "flat")
    assert (one["documents_count"], one["index"]["state"]) == (3, "exact")
    stats = api.ok("GET", f"/tables/{table}/stats")
    assert stats["documents_count"] == 3 and stats["memory_bytes"] >= 0 and len(stats["shards"]) == 1
    assert api.ok("DELETE", f"/tables/{table}") == {"table_name": table, "deleted": True}
    assert api("GET", f"/tables/{table}").status_code == 404


def test_documents_are_written_read_replaced_and_patched(api: Api, table: str) -> None:
    path = f"/tables/{table}/documents"
    one = api.ok("GET", f"{path}/a")
    assert (one["document_id"], one["vector"], one["metadata"]) == ("a", [1, 0, 0], {"lang": "en", "year": 2001})
    assert "vector" not in api.ok("GET", f"{path}/a?with_vector=false")
    patched = api.ok("PATCH", f"{path}/a", json={"metadata": {"year": None, "tag": "x"}, "if_version": one["version"]})
    assert patched["document_ids"] == ["a"] and patched["version"] > one["version"]
    assert api.ok("GET", f"{path}/a")["metadata"] == {"lang": "en", "tag": "x"}
    stale = api("PATCH", f"{path}/a", json={"metadata": {"x": 1}, "if_version": one["version"]})
    assert (stale.status_code, stale.json()["code"]) == (409, "version_mismatch")
    api.ok("PUT", f"{path}/a", json={"vector": [3, 0, 0]})
    assert api.ok("GET", f"{path}/a")["metadata"] == {}
    assert api.ok("GET", f"{path}/7")["document_id"] == 7
    made = api.ok("POST", path, json={"vector": [1, 1, 1]})["document_ids"][0]
    assert len(made) == 36 and api.ok("GET", f"{path}/{made}")["document_id"] == made
    odd = "ä/b c?d#%"
    api.ok("POST", path, json={"document_id": odd, "vector": [1, 1, 1]})
    assert api.ok("GET", f"{path}/{requests.utils.quote(odd, safe='')}")["document_id"] == odd


def test_documents_are_deleted_by_id_and_by_filter(api: Api, table: str) -> None:
    path = f"/tables/{table}/documents"
    assert api.ok("DELETE", f"{path}/a")["deleted"] == 1
    assert api.ok("DELETE", f"{path}/a")["deleted"] == 0
    by_filter = {"filter": {"must": [{"key": "year", "range": {"gte": 2010}}]}}
    assert api.ok("POST", f"{path}/delete", json=by_filter)["deleted"] == 1
    assert api.ok("POST", f"{path}/delete", json={"ids": [7, "none"]})["deleted"] == 1
    assert api.ok("GET", f"/tables/{table}")["documents_count"] == 0


def test_a_guard_where_there_is_none_is_refused_and_nothing_happens(api: Api, table: str) -> None:
    path = f"/tables/{table}/documents"
    for method, body in (("DELETE", None), ("PUT", {"vector": [9, 9, 9]}), ("PATCH", {"metadata": {"x": 1}})):
        refused = api(method, f"{path}/a?if_version=999", json=body)
        assert (refused.status_code, refused.json()["code"]) == (400, "unknown_parameter"), method
    kept = api.ok("GET", f"{path}/a")
    assert (kept["vector"], kept["metadata"]) == ([1, 0, 0], {"lang": "en", "year": 2001})


def test_listing_goes_through_all_pages(api: Api, table: str) -> None:
    path = f"/tables/{table}/documents"
    api.ok("POST", path, json={"documents": [{"document_id": 100 + i, "vector": [1, 2, 3]} for i in range(25)]})
    seen, cursor = [], None
    while True:
        page = api.ok("POST", f"{path}/list", json={"limit": 10, "cursor": cursor})
        assert len(page["documents"]) <= 10
        seen += [one["document_id"] for one in page["documents"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert len(seen) == 28 and set(seen) == {"a", "b", 7, *range(100, 125)}
    only = api.ok("POST", f"{path}/list", json={"limit": 5, "filter": {"must": [{"key": "lang", "match": {"value": "de"}}]}, "with_vector": True})
    assert [(one["document_id"], one["vector"]) for one in only["documents"]] == [("b", [0, 1, 0])]


def test_search_with_every_option(api: Api, table: str) -> None:
    path = f"/tables/{table}/search"
    found = api.ok("POST", path, json={"vector": [2, 1, 0], "top_k": 3})
    assert [(hit["document_id"], hit["score"]) for hit in found["results"]] == [("a", 2), ("b", 1), (7, 0)]
    assert found["shards"] == {"total": 1, "ok": 1, "failed": []} and found["took_ms"] >= 0
    assert "explain" not in found
    options = {"threshold": 1, "with_metadata": False, "with_vector": True, "exact": True, "explain": True,
               "nprobe": 4, "recall_target": 0.9, "session": found["session"], "consistency": "session",
               "on_unavailable": "partial"}
    full = api.ok("POST", path, json={"vector": [2, 1, 0], "top_k": 3, **options})
    assert full["results"][0] == {"document_id": "a", "score": 2, "vector": [1, 0, 0]}
    assert len(full["results"]) == 2 and full["explain"]["estimated_recall"] == 1
    batch = api.ok("POST", path, json={"searches": [{"vector": [1, 0, 0], "top_k": 1}, {"vector": [0, 1, 0], "top_k": 1}]})
    assert [one["results"][0]["document_id"] for one in batch["searches"]] == ["a", "b"]
    bad = api("POST", path, json={"searches": [{"vector": [1, 0, 0], "top_k": 1}, {"vector": [0, 1], "top_k": 1}]})
    assert (bad.status_code, bad.json()["row"], bad.json()["field"]) == (400, 1, "searches[1].vector")


def test_named_vectors(api: Api, table_name: str) -> None:
    vectors = {"title": {"dimension": 2, "metric": "dot"}, "image": {"dimension": 3, "metric": "euclidean"}}
    created = api.ok("POST", "/tables", 201, json={"table_name": table_name, "vectors": vectors})
    assert "dimension" not in created and created["vectors"]["image"]["metric"] == "euclidean"
    path = f"/tables/{table_name}"
    api.ok("POST", f"{path}/documents", json={"document_id": "x", "vectors": {"title": [1, 2], "image": [3, 4, 0]}})
    assert api.ok("GET", f"{path}/documents/x")["vectors"] == {"title": [1, 2], "image": [3, 4, 0]}
    found = api.ok("POST", f"{path}/search", json={"vector": [0, 0, 0], "vector_name": "image", "top_k": 1})
    assert found["results"][0]["score"] == pytest.approx(5)
    bad = api("POST", f"{path}/documents", json={"vectors": {"title": [1, 2, 3]}})
    assert (bad.json()["code"], bad.json()["field"]) == ("dimension_mismatch", "vectors.title")


def test_bulk_bodies_and_gzip(api: Api, table: str) -> None:
    ids, rows = [2**63, 11], [[1, 2, 3], [4, 5, 6]]
    body = struct.pack("<II2Q6f", 2, 3, *ids, *rows[0], *rows[1])
    octets = {"content-type": "application/octet-stream"}
    path = f"/tables/{table}/documents"
    assert api.ok("POST", path, data=body, headers=octets)["document_ids"] == ids
    assert api.ok("GET", f"{path}/{2**63}")["vector"] == rows[0]
    assert api("POST", path, data=body[:-1], headers=octets).json()["code"] == "bad_bulk_body"
    zipped = gzip.compress(json.dumps({"document_id": "z", "vector": [1, 2, 3]}).encode())
    json_gzip = {"content-type": "application/json", "content-encoding": "gzip"}
    assert api.ok("POST", path, data=zipped, headers=json_gzip)["document_ids"] == ["z"]
    bomb = gzip.compress(b" " * (128 << 20))
    refused = api("POST", path, data=bomb, headers=json_gzip)
    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")


def test_errors_are_problems(api: Api, table: str) -> None:
    headers = {"x-request-id": "mine-42"}
    rows = [{"document_id": "ok", "vector": [1, 2, 3]}, {"document_id": "short", "vector": [1, 2]}]
    answer = api("POST", f"/tables/{table}/documents", json={"documents": rows}, headers=headers)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "mine-42"
    problem = answer.json()
    assert problem.pop("detail")
    assert problem == {
        "type": "urn:vectorsphere:problem:dimension_mismatch", "title": "Dimension mismatch", "status": 400,
        "code": "dimension_mismatch", "field": "documents[1].vector", "expected": 3, "got": 2, "row": 1,
        "document_id": "short", "request_id": "mine-42",
    }
    assert api("GET", f"/tables/{table}/documents/ok").status_code == 404, "nothing of the batch was stored"
    typo = api("POST", f"/tables/{table}/search", json={"vektor": [1, 2, 3], "top_k": 1}).json()
    assert typo["code"] == "unknown_field" and "did you mean `vector`" in typo["detail"]
    broken = api("POST", "/tables", data="{\n  \"table_name\": ", headers={"content-type": "application/json"}).json()
    assert broken["code"] == "invalid_json" and "line 2" in broken["got"]
    assert api("POST", "/tables", data="x=1", headers={"content-type": "application/x-www-form-urlencoded"}).status_code == 415
    wrong = api("DELETE", "/limits")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET,HEAD")
    assert api("GET", "/nowhere").json()["code"] == "route_not_found"


def test_the_node_describes_itself(http: requests.Session, shared_node: Node, api: Api) -> None:
    base = shared_node.url
    assert api.ok("GET", "/limits")["top_k_max"] == 10_000
    status = api.ok("GET", "/cluster/status")
    assert (status["verdict"], status["mode"], len(status["nodes"])) == ("healthy", "standalone", 1)
    assert api.ok("GET", "/cluster/nodes")["nodes"][0]["status"] == "up"
    for path in ("/health", "/healthz", "/livez", "/readyz"):
        assert http.get(base + path, timeout=TIMEOUT_S).json() == {"status": "ok"}
        checks = http.get(base + path + "?verbose", timeout=TIMEOUT_S).json()["checks"]
        assert checks and all(check["ok"] for check in checks)
    description = http.get(base + "/openapi.json", timeout=TIMEOUT_S).json()
    assert description["openapi"].startswith("3.1") and "/api/v1/tables/{table}/search" in description["paths"]
    page = http.get(base + "/docs", timeout=TIMEOUT_S)
    assert page.headers["content-type"].startswith("text/html") and "openapi.json" in page.text
    metrics = http.get(shared_node.monitoring_url + "/metrics", timeout=TIMEOUT_S).text
    assert 'vectorsphere_http_requests_total{route="/api/v1/limits"' in metrics
