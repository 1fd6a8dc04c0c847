"""A real S3 server (SeaweedFS) on loopback, as fixtures for a conftest to import: `s3_server`, `s3_bucket`."""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs
from botocore.exceptions import BotoCoreError

KEY, SECRET = "test-key", "test-secret"
START_TIMEOUT_S = 60


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and what a client's environment must hold."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for the run; a server that doesn't come up fails the tests that asked for it."""
    folder = Path(tempfile.mkdtemp(prefix="x2i-s3-"))
    ports = _free_ports(8)
    server = S3Server(f"http://127.0.0.1:{ports[0]}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            _command(folder, ports=ports), stdout=log, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent
        )
    try:
        _wait_until_up(server, process=process, log=folder / "log")
        yield server
    finally:
        process.kill()  # its graceful end takes ten seconds, and nothing of it is kept
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new, empty bucket, with the environment that reaches it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"test-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}"


def _die_with_parent() -> None:
    """A killed test run leaves no server behind: the kernel kills it too."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _command(folder: Path, *, ports: list[int]) -> list[str]:
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    # The gRPC ports too: by default they are 10,000 above the others, which may be taken or above 65,535.
    names = (
        "s3",
        "s3.port.grpc",
        "master",
        "master.port.grpc",
        "volume",
        "volume.port.grpc",
        "filer",
        "filer.port.grpc",
    )
    flags = [name if ".port" in name else f"{name}.port" for name in names]
    return [
        *(
            str(Path(sys.executable).with_name("weed")),
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-filer",
        ),
        *(f"-{flag}={port}" for flag, port in zip(flags, ports, strict=True)),
        *(f"-dir={folder}", f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-master.electionTimeout=1s"),
        *("-volume.max=0", "-volume.preStopSeconds=0"),
    ]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_until_up(server: S3Server, *, process: subprocess.Popen[bytes], log: Path) -> None:
    """Up is when a bucket can be made: it listens before its filer is ready."""
    client = s3fs.S3FileSystem(
        endpoint_url=server.endpoint, key=KEY, secret=SECRET, config_kwargs={"retries": {"max_attempts": 1}}
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.mkdir("ready")
            return
        except (OSError, BotoCoreError):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no S3 server for the tests: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
