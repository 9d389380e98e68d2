"""The first command of the README: `vectorsphere quickstart` starts a node, loads its sample, searches it and says how to go on.

What it prints for people to copy is run as it stands, while it runs with `--keep`.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

WAIT_S = 60


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.skipif(not _is_free(8080), reason="something listens on port 8080")
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_quickstart_prints_works(binary: Path, tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    with printed.open("wb") as out:
        command = [binary, "quickstart", "--keep", "--data-dir", tmp_path / "data"]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + WAIT_S
        while not re.search(r"\nEND\n", text := printed.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, text
            time.sleep(0.1)
        assert re.search(r"king +prince 0\.\d+, queen 0\.\d+", text), text
        lines = re.findall(r"^ +(curl .*)$", text.replace("\\\n", " "), re.M)
        assert len(lines) >= 4, text
        for line in lines:
            shown = subprocess.run([*shlex.split(line), "-sf"], capture_output=True, text=True)
            assert shown.returncode == 0, (line, shown.stdout, shown.stderr)
        script = re.search(r"python3 - <<'END'\n(.*?)\nEND\n", text, re.S)
        assert script, text
        shown = subprocess.run(["python3", "-c", script[1]], capture_output=True, text=True, check=True)
        assert "king" in shown.stdout and "queen" in shown.stdout, shown.stdout
    finally:
        process.send_signal(signal.SIGINT)
        try:
            code = process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code == 0, printed.read_text()
