"""A real node as a child process: start, wait until ready, stop, kill, start again on the same data.

Used by the fixtures in conftest.py, and by tests that need a node's whole life. The process dies with the test run,
whatever becomes of it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from pathlib import Path

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
LOG_TAIL_BYTES = 4000

_PR_SET_PDEATHSIG = 1


class NodeFailed(AssertionError):
    """The node did not do what was asked; the message ends with the tail of its log."""


class Node:
    """One `vectorsphere serve`, on free ports of the loopback interface, with its data in `home/data`."""

    def __init__(self, binary: Path, home: Path, *arguments: str) -> None:
        self.binary = binary
        self.home = home
        self.arguments = arguments
        # Where other nodes reach it; those of a cluster have to know that before it starts.
        self.peer = "127.0.0.1:0"
        self.log_path = home / "node.log"
        self.ready_path = home / "ready.json"
        self.addresses: dict = {}
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        """Base of the HTTP face, without a slash at the end."""
        return f"http://{_first(self.addresses['http'])}"

    @property
    def monitoring_url(self) -> str:
        """Base of the monitoring face."""
        return f"http://{_first(self.addresses['monitoring'])}"

    @property
    def grpc(self) -> str:
        """`host:port` of the gRPC face."""
        return _first(self.addresses["grpc"])

    @property
    def pid(self) -> int:
        """Process id; the node must be running."""
        assert self._process is not None, "the node is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything the node has written so far, over all its starts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def command(self) -> list[str]:
        """The command line."""
        listeners = [part for flag in ("http", "grpc", "monitoring") for part in (f"--{flag}", "127.0.0.1:0")]
        listeners += ["--peer", self.peer]
        own = ["--data-dir", str(self.home / "data"), "--ready-file", str(self.ready_path)]
        return [str(self.binary), "serve", *own, *listeners, *self.arguments]

    def start(self) -> Node:
        """Starts the process and waits until it says it is ready."""
        assert not self.is_running, "the node is running already"
        self.home.mkdir(parents=True, exist_ok=True)
        self.ready_path.unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                env=clean_environment(),
                preexec_fn=_die_with_parent,
            )
        self._wait_ready()
        return self

    def stop(self) -> int:
        """SIGTERM, then the exit code. A node that does not stop in time is killed and fails the test."""
        process = self._process
        assert process is not None, "the node is not running"
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodeFailed(self._with_log(f"still running {STOP_TIMEOUT_S} s after SIGTERM")) from None
        self._process = None
        return code

    def kill(self) -> None:
        """SIGKILL: nothing is flushed. What was acknowledged must be there after the next start."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _wait_ready(self) -> None:
        process = self._process
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._process = None
                raise NodeFailed(self._with_log(f"ended with exit code {process.returncode} before it was ready"))
            if (addresses := self._read_ready()) is not None:
                self.addresses = addresses
                return
            time.sleep(0.01)
        self.kill()
        raise NodeFailed(self._with_log(f"not ready after {READY_TIMEOUT_S} s"))

    def _read_ready(self) -> dict | None:
        try:
            return json.loads(self.ready_path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _with_log(self, text: str) -> str:
        return f"{text}\ncommand: {' '.join(self.command())}\nlog ends with:\n{self.log[-LOG_TAIL_BYTES:]}"


def clean_environment() -> dict[str, str]:
    """The environment without the settings of whoever runs the tests."""
    return {key: value for key, value in os.environ.items() if not key.startswith("VECTORSPHERE_")}


def _first(address: str | list[str]) -> str:
    return address if isinstance(address, str) else address[0]


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
