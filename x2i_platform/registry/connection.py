"""The connection to MLflow: accepted tracking URIs, one client per process, errors in one line.

Invariants: a URI that can't work is refused within seconds, before MLflow's own minutes of retries; two processes that
open a new SQLite file at once both succeed; no message shows a password.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import logging
import os
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from x2i_platform.errors import RegistryError, raising
from x2i_platform.files import locked

PROBE_TIMEOUT_S = 5.0
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
SQLITE_HEADER = b"SQLite format 3\0"
ACCEPTED = "sqlite:///PATH/mlflow.db, http(s)://HOST:PORT, postgresql://…, mysql://…, mssql://… or databricks"

OUTSIDE = (MlflowException, SQLAlchemyError, BotoCoreError, ClientError, Boto3Error, OSError, ImportError)
"""Errors from outside our code: servers, databases, disks, object stores, drivers that aren't installed."""


def default_tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder; absolute, since workers run in other folders."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    return _absolute_sqlite(uri) if _scheme(uri) == "sqlite" else uri


def check_tracking_uri(uri: str) -> str:
    """The URI, a SQLite path made absolute. Creates nothing.

    Raises RegistryError if MLflow doesn't support it, or if its file or server can't be reached.
    """
    scheme = _scheme(uri)
    if scheme not in ("", "file", "sqlite") and any(char.isspace() for char in uri):
        raise RegistryError("the tracking URI holds white space; write a space as %20")  # not shown: it may be secret
    if scheme in ("http", "https"):
        _check_server(uri)
    elif scheme == "sqlite":
        uri = _absolute_sqlite(uri)
        _check_sqlite_file(Path(sqlalchemy.make_url(uri).database or ""))
    elif scheme in DATABASE_PORTS:
        _check_database(uri)
    elif scheme in ("", "file") and uri != "databricks":
        raise RegistryError(f"tracking URI {uri!r}: MLflow's file store is closed; use {ACCEPTED}")
    elif scheme not in ("", "databricks"):
        raise RegistryError(f"tracking URI {uri!r} is not supported; use {ACCEPTED}")
    return uri


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite tracking URI, absolute; None for any other URI."""
    return Path(sqlalchemy.make_url(_absolute_sqlite(uri)).database or "") if _scheme(uri) == "sqlite" else None


def connect(uri: str) -> MlflowClient:
    """The client of a tracking URI; an SQLite database that isn't there is created. Raises RegistryError."""
    return _client(_absolute_sqlite(uri) if _scheme(uri) == "sqlite" else uri)


@functools.lru_cache(maxsize=8)
def _client(uri: str) -> MlflowClient:
    uri = check_tracking_uri(uri)
    # MLflow may have been imported before this package could set its level.
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
    # This logger prints a traceback of every failed statement; our message is made from what is raised.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    with raising(RegistryError, f"tracking URI {uri!r} can't be used", OUTSIDE), database_lock(uri):
        client = MlflowClient(uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _scheme(uri: str) -> str:
    return urlsplit(uri).scheme.partition("+")[0]


def _absolute_sqlite(uri: str) -> str:
    try:
        url = sqlalchemy.make_url(uri)
    except SQLAlchemyError as error:
        raise RegistryError(f"tracking URI {uri!r} is malformed; use sqlite:///PATH/mlflow.db") from error
    if not url.database or url.database == ":memory:":
        raise RegistryError(f"tracking URI {uri!r} names no file that workers can share; use sqlite:///PATH/mlflow.db")
    # Only what SQLAlchemy would interpret is quoted: MLflow creates the parent folder without unquoting it.
    path = str(Path(url.database).absolute()).replace("%", "%25").replace("?", "%3F")
    query = uri.partition("?")[2]
    return f"sqlite:///{path}?{query}" if query else f"sqlite:///{path}"


def _check_sqlite_file(path: Path) -> None:
    if path.is_dir():
        raise RegistryError(f"tracking database {path} is a folder; name a file in it, such as {path / 'mlflow.db'}")
    if path.exists():
        with raising(RegistryError, f"tracking database {path} can't be read", OUTSIDE), path.open("rb") as file:
            header = file.read(len(SQLITE_HEADER))
        if header not in (b"", SQLITE_HEADER):
            raise RegistryError(f"tracking database {path} is not a SQLite database; name another file")
    existing = next(place for place in (path, *path.parents) if place.exists())
    if existing != path and not existing.is_dir():
        raise RegistryError(f"tracking database {path} can't be created: {existing} is not a folder")
    if not os.access(existing, os.W_OK):
        raise RegistryError(f"tracking database {path}: no permission to write {existing}")


def _check_server(uri: str) -> None:
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    try:
        _ = parts.port
    except ValueError:
        raise _unescaped(uri) from None
    try:
        with urllib.request.urlopen(f"{parts.scheme}://{host}{parts.path.rstrip('/')}/health", timeout=PROBE_TIMEOUT_S):
            return
    except urllib.error.HTTPError:
        return  # It answers; whether we may use it is for the client, which knows the credentials.
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # It answers; only the client knows MLFLOW_TRACKING_SERVER_CERT_PATH.
        raise RegistryError(f"tracking server {uri} can't be reached ({reason}); start it or name another") from error


def _unescaped(uri: str) -> RegistryError:
    """An error for URIs whose password is not escaped: libraries would take a part of it for the host and show it."""
    return RegistryError(f"tracking URI {uri!r}: write / in a password as %2F, ? as %3F, # as %23 and @ as %40")


def _check_database(uri: str) -> None:
    action = f"tracking database {uri} can't be reached"
    with raising(RegistryError, action, OUTSIDE):
        url = sqlalchemy.make_url(uri)
        if "@" in f"{url.host}{url.database}":
            raise _unescaped(uri)
        engine = sqlalchemy.create_engine(url)
        if engine.url.host:
            port = engine.url.port or DATABASE_PORTS[_scheme(uri)]
            socket.create_connection((engine.url.host, port), timeout=PROBE_TIMEOUT_S).close()
        with engine.connect():
            pass
        engine.dispose()


@contextlib.contextmanager
def database_lock(uri: str) -> Iterator[None]:
    """One process of a machine at a time creates a SQLite file, or moves an alias in it; servers aren't locked.

    Of three processes that ran MLflow's schema migrations on a new file at once, two crashed.
    """
    path = sqlite_file(uri)
    with contextlib.ExitStack() as held:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # Some network file systems lock no folder; there we run unlocked.
                held.enter_context(locked(path.parent))
        yield
