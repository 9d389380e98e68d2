"""Holds the dependency graph against deny.toml: licences, banned crates, sources.

`cargo deny` does more and is the authority where it is at hand; this needs nothing but cargo and the lock file, so it
runs everywhere. It does not look at advisories: their database is not to be reached from the test machines.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections import defaultdict

import pytest
from conftest import ROOT

DENY = ROOT / "deny.toml"
POLICY = tomllib.loads(DENY.read_text())
# Spellings of old manifests.
LICENCE_ALIASES = {"/": " OR "}


@pytest.fixture(scope="session")
def graph() -> dict:
    """The resolved dependency graph with all features on, for every platform."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features"]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return json.loads(answer.stdout)


@pytest.fixture(scope="session")
def packages(graph: dict) -> list[dict]:
    return graph["packages"]


def is_allowed(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be met with the allowed licences: `AND` binds tighter than `OR`."""
    for old, new in LICENCE_ALIASES.items():
        expression = expression.replace(old, new)
    tokens = re.findall(r"\(|\)|[A-Za-z0-9.+-]+", expression)
    position = 0

    def either() -> bool:
        met = both()
        while take("OR"):
            met = both() or met
        return met

    def both() -> bool:
        met = one()
        while take("AND"):
            met = one() and met
        return met

    def one() -> bool:
        nonlocal position
        if take("("):
            met = either()
            assert take(")"), f"unbalanced: {expression}"
            return met
        licence = tokens[position]
        position += 1
        if take("WITH"):
            licence = f"{licence} WITH {tokens[position]}"
            position += 1
        return licence in allowed

    def take(word: str) -> bool:
        nonlocal position
        found = position < len(tokens) and tokens[position] == word
        position += found
        return found

    met = either()
    assert position == len(tokens), f"cannot read the licence {expression!r}"
    return met


def test_licence_expressions() -> None:
    allowed = {"MIT", "Apache-2.0", "Zlib", "Apache-2.0 WITH LLVM-exception"}
    for good in ("MIT", "MIT/GPL-2.0", "GPL-2.0 OR (MIT AND Zlib)", "Apache-2.0 WITH LLVM-exception"):
        assert is_allowed(good, allowed), good
    for bad in ("GPL-2.0", "MIT AND GPL-2.0", "(MIT OR GPL-2.0) AND AGPL-3.0", "Zlib WITH LLVM-exception"):
        assert not is_allowed(bad, allowed), bad


def test_licences(packages: list[dict]) -> None:
    allowed = set(POLICY["licenses"]["allow"])
    refused = [
        f"{package['name']} {package['version']}: {package['license']}"
        for package in packages
        if not package["license"] or not is_allowed(package["license"], allowed)
    ]
    assert refused == []


def test_every_licence_allowed_is_in_use(packages: list[dict]) -> None:
    named = " ".join(package["license"] or "" for package in packages)
    idle = [licence for licence in POLICY["licenses"]["allow"] if licence not in named]
    assert idle == []


def test_banned_crates(graph: dict) -> None:
    names = {package["id"]: package["name"] for package in graph["packages"]}
    users: dict[str, set[str]] = defaultdict(set)
    for node in graph["resolve"]["nodes"]:
        for dependency in node["deps"]:
            users[names[dependency["pkg"]]].add(names[node["id"]])
    assert "vectorsphere" in users["fjall"], "the graph is not read rightly"
    refused = [
        f"{ban['crate']}, brought in by {user}: {ban['reason']}"
        for ban in POLICY["bans"]["deny"]
        for user in sorted(users[ban["crate"]] - set(ban.get("wrappers", [])))
    ]
    assert refused == []


def test_no_wildcard_versions(packages: list[dict]) -> None:
    own = next(package for package in packages if package["name"] == "vectorsphere")
    assert [dependency["name"] for dependency in own["dependencies"] if dependency["req"] == "*"] == []


def test_sources(packages: list[dict]) -> None:
    allowed = {f"registry+{url}" for url in POLICY["sources"]["allow-registry"]}
    refused = [
        f"{package['name']}: {package['source']}"
        for package in packages
        if package["source"] not in allowed and package["name"] != "vectorsphere"
    ]
    assert refused == []


def test_every_ignored_advisory_has_its_reason() -> None:
    lines = [line.strip() for line in DENY.read_text().splitlines()]
    for advisory in POLICY["advisories"]["ignore"]:
        at = lines.index(f'"{advisory}",')
        assert lines[at - 1].startswith("# "), f"{advisory}: say above it why it does no harm"
