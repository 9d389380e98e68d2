"""Fixtures of the end-to-end tests: they drive the real binary over real sockets.

- `binary`: path of `vectorsphere`: `$VECTORSPHERE_BIN`, or else the debug build, which is built if need be.
- `node`: a running node of the test's own, on an empty directory.
- `shared_node`: one running node for the whole run; use a table name of your own (`table_name`).
- `make_node`: makes nodes that are not started yet, for tests of starting and stopping.
- `http`: a `requests.Session` that keeps its connections.

Run by scripts/test.sh, or by hand: `.venv/bin/pytest tests/python`.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from node import Node

ROOT = Path(__file__).resolve().parents[2]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def binary() -> Path:
    if given := os.environ.get("VECTORSPHERE_BIN"):
        path = Path(given).resolve()
        assert path.is_file(), f"VECTORSPHERE_BIN: no such file: {path}"
        return path
    subprocess.run(["cargo", "build", "--locked", "--bin", "vectorsphere"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "vectorsphere"


@pytest.fixture
def make_node(binary: Path, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(*arguments: str, name: str = "node") -> Node:
        made.append(Node(binary, tmp_path / name, *arguments))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node().start()


@pytest.fixture(scope="session")
def shared_node(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    one = Node(binary, tmp_path_factory.mktemp("shared")).start()
    yield one
    one.kill()


@pytest.fixture
def table_name() -> str:
    """A table name no other test of this run uses."""
    return f"t{next(_numbers)}"


@pytest.fixture
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session
