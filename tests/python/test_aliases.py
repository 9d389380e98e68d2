"""Aliases end to end: tables take each other's place under readers and writers of three nodes, and no request fails; and the commands.

What the README prints of aliases is run as it stands, but for the port.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from node import Node

TIMEOUT_S = 30.0
READY_S = 60.0
ROUNDS = 8
DOCUMENTS = 20
ROOT = Path(__file__).resolve().parents[2]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def nodes(make_node: Callable[..., Node]) -> list[Node]:
    """Three nodes that form a cluster."""
    ports = _free_ports(3)
    made = []
    for number, port in enumerate(ports):
        peers = ",".join(f"127.0.0.1:{other}" for other in ports if other != port)
        made.append(make_node("--mode", "auto", "--set", f"cluster.peers={peers}", name=f"node-{number}"))
        made[-1].peer = f"127.0.0.1:{port}"
    # They answer at once, and form the cluster when the last one is there.
    return [one.start() for one in made]


class Api:
    def __init__(self, node: Node) -> None:
        self._http = requests.Session()
        self._http.trust_env = False
        self._base = f"{node.url}/api/v1"

    def __call__(self, method: str, path: str, body: dict | None = None) -> requests.Response:
        return self._http.request(method, self._base + path, json=body, timeout=TIMEOUT_S)

    def ok(self, method: str, path: str, body: dict | None = None) -> dict:
        answer = self(method, path, body)
        assert answer.ok, answer.text
        return answer.json()


def _until_aliases_are_known(api: Api) -> None:
    """Every node has to say what it speaks first."""
    deadline = time.monotonic() + READY_S
    while (answer := api("POST", "/aliases", {"changes": [{"delete": {"alias_name": "none"}}]})).status_code != 200:
        assert time.monotonic() < deadline and answer.status_code in (409, 503), answer.text
        time.sleep(0.1)


def _filled(api: Api, generation: int) -> str:
    name = f"things_{generation}"
    api.ok("POST", "/tables", {"table_name": name, "dimension": 2, "metric": "dot", "index_type": "flat", "shards": 2})
    documents = [
        {"document_id": i, "vector": [1, i], "metadata": {"generation": generation}} for i in range(DOCUMENTS)
    ]
    api.ok("POST", f"/tables/{name}/documents", {"documents": documents})
    return name


class Load:
    """Readers and writers that go on until they are told to stop; whatever fails is kept."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.counts = {"read": 0, "written": 0}
        self.acknowledged: list[int] = []
        self.newest = 0
        self._stop = threading.Event()
        self._ids = itertools.count(1_000)
        self._threads: list[threading.Thread] = []

    def begin(self, nodes: list[Node]) -> None:
        for node in nodes:
            for work in (self._read, self._write):
                thread = threading.Thread(target=self._go_on, args=(work, Api(node)), daemon=True)
                thread.start()
                self._threads.append(thread)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()

    def _go_on(self, work: Callable[[Api], None], api: Api) -> None:
        while not self._stop.is_set() and not self.failed:
            try:
                work(api)
            except Exception as error:  # noqa: BLE001: whatever it is, the test has failed
                self.failed.append(f"{work.__name__}: {error!r}")

    def _read(self, api: Api) -> None:
        newest = self.newest
        search = {"vector": [1, 1], "top_k": DOCUMENTS, "filter": {"must": [{"key": "generation", "range": {"gte": 0}}]}}
        found = api.ok("POST", "/tables/live/search", search)["results"]
        generations = {hit["metadata"]["generation"] for hit in found}
        assert len(found) == DOCUMENTS and len(generations) == 1, found
        assert generations.pop() >= newest, f"older than {newest}, whose switch was answered before"
        self.counts["read"] += 1

    def _write(self, api: Api) -> None:
        number = next(self._ids)
        batch = [{"document_id": number * 10 + i, "vector": [0, 1], "metadata": {"batch": number}} for i in range(3)]
        api.ok("POST", "/tables/live/documents", {"documents": batch})
        self.acknowledged.append(number)
        self.counts["written"] += 1


def test_tables_take_each_others_place_and_no_request_fails(nodes: list[Node]) -> None:
    first, *_ = apis = [Api(node) for node in nodes]
    _until_aliases_are_known(first)
    table = _filled(first, 0)
    first.ok("POST", "/aliases", {"changes": [{"create": {"alias_name": "live", "table_name": table}}]})
    load, kept = Load(), []
    load.begin(nodes)
    for generation in range(1, ROUNDS):
        api = apis[generation % len(apis)]
        table = _filled(api, generation)
        changed = api.ok("POST", "/aliases", {"changes": [{"create": {"alias_name": "live", "table_name": table}}]})
        assert changed == {"changed": 1, "behind": []}
        load.newest = generation
        for other in apis:
            assert other.ok("GET", "/tables/live")["table_name"] == table
        time.sleep(0.3)
    load.end()
    assert not load.failed, load.failed
    assert load.counts["read"] > 20 and load.counts["written"] > 20, load.counts
    # Every batch is in one of the tables, whole.
    homes: dict[int, list[str]] = {}
    for generation in range(ROUNDS):
        listed = first.ok("POST", f"/tables/things_{generation}/documents/list", {"limit": 10_000})["documents"]
        for document in listed:
            if "batch" in document["metadata"]:
                homes.setdefault(document["metadata"]["batch"], []).append(f"things_{generation}")
        kept.append(len(listed))
    for number in load.acknowledged:
        assert len(homes[number]) == 3 and len(set(homes[number])) == 1, (number, homes[number])
    # The table goes, and its alias with it.
    answer = first("DELETE", "/tables/live")
    assert (answer.status_code, answer.json()["code"], answer.json()["expected"]) == (409, "table_is_alias", table)
    first.ok("DELETE", f"/tables/{table}")
    assert first.ok("GET", "/aliases") == {"aliases": []}


def test_a_read_under_way_goes_to_the_table_that_is_there(nodes: list[Node]) -> None:
    """The old table is deleted at once: whoever reads is answered by one of the two, never that there is none."""
    first, *_ = apis = [Api(node) for node in nodes]
    _until_aliases_are_known(first)
    table, stop, failed = _filled(first, 0), threading.Event(), []
    first.ok("POST", "/aliases", {"changes": [{"create": {"alias_name": "live", "table_name": table}}]})

    def read(api: Api) -> None:
        while not stop.is_set():
            answer = api("POST", "/tables/live/documents/list", {"limit": 100})
            if not answer.ok or len(answer.json()["documents"]) != DOCUMENTS:
                failed.append(answer.text)

    readers = [threading.Thread(target=read, args=(Api(node),), daemon=True) for node in nodes]
    for reader in readers:
        reader.start()
    for generation in range(1, ROUNDS):
        new = _filled(first, generation)
        first.ok("POST", "/aliases", {"changes": [{"create": {"alias_name": "live", "table_name": new}}]})
        first.ok("DELETE", f"/tables/{table}")
        table = new
    stop.set()
    for reader in readers:
        reader.join(TIMEOUT_S)
    assert not failed, failed[:3]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_readme_and_the_commands_say(node: Node, binary: Path) -> None:
    api = Api(node)
    api.ok("POST", "/tables", {"table_name": "my_vectors", "dimension": 3, "metric": "cosine"})
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = [line for line in re.findall(r"^(curl .*)$", text, re.M) if "/aliases" in line or "tables/live" in line]
    assert len(lines) == 2, lines
    for line in lines:
        command = shlex.split(line.split("   #")[0].replace("http://localhost:8080", node.url))
        shown = subprocess.run([*command, "-sf"], capture_output=True, text=True)
        assert shown.returncode == 0, (line, shown.stdout, shown.stderr)
    assert json.loads(shown.stdout)["table_name"] == "my_vectors"

    def command(*arguments: str, code: int = 0) -> str:
        line = [str(binary), "--endpoint", node.url, "-o", "json", "table", *arguments]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == code, (line, done.stdout, done.stderr)
        return done.stdout or done.stderr

    api.ok("POST", "/tables", {"table_name": "newer", "dimension": 3})
    assert json.loads(command("alias", "set", "live=newer", "old=my_vectors")) == {"changed": 2, "behind": []}
    both = [{"alias_name": "live", "table_name": "newer"}, {"alias_name": "old", "table_name": "my_vectors"}]
    assert json.loads(command("alias", "list"))["aliases"] == both
    assert json.loads(command("alias", "list", "newer"))["aliases"] == both[:1]
    assert json.loads(command("show", "live"))["table_name"] == "newer"
    assert "this is an alias" in command("delete", "live", code=1)
    assert json.loads(command("alias", "rename", "old", "older"))["changed"] == 2
    assert json.loads(command("alias", "delete", "older", "live", "none"))["changed"] == 2
    assert json.loads(command("alias", "list"))["aliases"] == []
