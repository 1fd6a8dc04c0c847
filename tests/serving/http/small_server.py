"""The small application in a process of its own, so that its memory can be watched."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import free_port
from tests.serving.attackers import Target

ROOT = Path(__file__).parents[3]
START_TIMEOUT_S = 120


@dataclass(frozen=True)
class SmallServer:
    """Where it listens, and its process."""

    target: Target
    pid: int
    log: Path

    def url(self, path: str) -> str:
        """The address of a route."""
        return f"http://127.0.0.1:{self.target.port}{path}"

    def audit(self) -> list[dict[str, Any]]:
        """The lines of the audit log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextlib.contextmanager
def small_server(folder: Path, **guards: Any) -> Iterator[SmallServer]:
    """A server with such guard rails, for the length of the block."""
    port, log = free_port(), folder / "server.log"
    command = [sys.executable, "-m", "tests.serving.http.small_app", str(port), json.dumps(guards)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        server = SmallServer(Target(port), process.pid, log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _is_up(server):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield server
    finally:
        process.kill()
        process.wait()


def _is_up(server: SmallServer) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(server.url("/health")).status_code == 200
    return False
