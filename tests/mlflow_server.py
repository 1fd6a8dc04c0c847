"""A real MLflow server on loopback: the fixture `mlflow_server`, and `serve` for other databases and stores."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from x2i_platform.errors import RegistryError
from x2i_platform.registry.tracking import check_tracking_uri

START_TIMEOUT_S = 120


@pytest.fixture
def mlflow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its URI; database and files lie in `tmp_path`."""
    monkeypatch.setenv("X2I_CACHE", str(tmp_path / "cache"))
    with serve(tmp_path, backend=f"sqlite:///{tmp_path}/server.db", artifacts=f"{tmp_path}/files") as uri:
        yield uri


@contextmanager
def serve(folder: Path, *, backend: str, artifacts: str) -> Iterator[str]:
    """Run a server for the length of the block; yields its URI. Its log lies in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    places = ["--backend-store-uri", backend, "--artifacts-destination", artifacts]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([*command, *places], env=environment, stdout=log, stderr=log)
    uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_TIMEOUT_S
    try:
        while not _answers(uri):
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.5)
        yield uri
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(uri: str) -> bool:
    try:
        return check_tracking_uri(uri) == uri
    except RegistryError:
        return False
