"""The connection to MLflow: which URIs are taken, and what is said of the others."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from x2i_platform.errors import RegistryError
from x2i_platform.registry.connection import check_tracking_uri, connect, default_tracking_uri


def test_the_default_is_an_absolute_file_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert default_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/a.db")
    assert default_tracking_uri() == check_tracking_uri("sqlite:///runs/a.db") == f"sqlite:///{tmp_path}/runs/a.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert default_tracking_uri() == "http://127.0.0.1:5000"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("./mlruns", "file store is closed"),
        ("file:///tmp/mlruns", "file store is closed"),
        ("", "file store is closed"),
        ("ftp://host/x", "not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:mlflow.db", "malformed"),
        ("sqlite:///{tmp}", "is a folder"),
        ("sqlite:///{tmp}/text.db", "not a SQLite database"),
        ("sqlite:///{tmp}/text.db/below/mlflow.db", "is not a folder"),
        ("http://user:secret@127.0.0.1:{port}", "can't be reached"),
        ("postgresql://user:secret@127.0.0.1:{port}/mlflow", "can't be reached"),
        ("postgresql://user:sec/secret@127.0.0.1:{port}/mlflow", "can't be reached"),
        ("postgresql://user:a@secret/b@127.0.0.1/mlflow", "write / in a password as %2F"),
        ("http://user:secret/secret@127.0.0.1:{port}", "write / in a password as %2F"),
        ("http://user:secret#a@127.0.0.1:{port}", "write / in a password as %2F"),
        ("nosuch+thing://user:secret/secret@host", r"'nosuch\+thing://\*\*\*@host' is not supported"),
        ("user:secret@host:5000", r"'\*\*\*@host:5000' is not supported"),
        ("//user:secret@host", r"'//\*\*\*@host': MLflow's file store is closed"),
        ("sqlite:mlflow.db?password=secret", "malformed"),
        ("http://user:sec secret@127.0.0.1:{port}", "the tracking URI holds white space; write a space as %20"),
    ],
)
def test_a_uri_that_can_not_work_is_refused_quickly_in_one_line(uri: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is text, and longer than a header")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = uri.format(tmp=tmp_path, port=closed.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(RegistryError, match=message) as caught:
            check_tracking_uri(uri)
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_damaged_database_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("create table experiments (a int)")
    with pytest.raises(RegistryError, match="can't be used") as caught:
        connect(f"sqlite:///{tmp_path}/other.db")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_two_processes_may_create_the_same_database_quietly(tmp_path: Path) -> None:
    code = f"from x2i_platform.registry.connection import connect; connect('sqlite:///{tmp_path}/new/mlflow.db')"
    racers = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [racer.communicate(timeout=120)[1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], messages
    assert messages == ["", ""]
    assert [entry.name for entry in Path(tmp_path / "new").iterdir()] == ["mlflow.db"]
