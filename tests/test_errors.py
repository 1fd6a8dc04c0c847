"""Messages are shown, logged and kept: no password of a URL is in them, and nothing else is lost."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from x2i_platform.errors import RegistryError, StoreError, X2IError, from_text, raising, redacted, to_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pw@host:5000/a", "http://***@host:5000/a"),
        ("http://token-pw@host", "http://***@host"),
        ("postgresql+psycopg2://me:pw@host/db", "postgresql+psycopg2://***@host/db"),
        ("postgresql://me:pw/pw@pw@host:5432/db", "postgresql://***@host:5432/db"),
        ("https://me:pw?pw#pw@host/x", "https://***@host/x"),
        ("odd+thing://me:pw@host", "odd+thing://***@host"),
        ("mongodb:me:pw@host", "***@host"),
        ("me:pw@host:5000", "***@host:5000"),
        ("//me:pw@host/x", "//***@host/x"),
        ("postgresql://host/db?user=me&password=pw@pw&ssl=1", "postgresql://host/db?user=me&password=***&ssl=1"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3D1%3BPWD%3Dpw", "mssql+pyodbc:///?odbc_connect=***"),
        ("https://host/x?X-Amz-Signature=pw&y=2", "https://host/x?X-Amz-Signature=***&y=2"),
        ("https://account/x?sv=2&sig=pw&y=1", "https://account/x?sv=2&sig=***&y=1"),
        ("https://host/x#token=pw", "https://host/x#token=***"),
        ("postgresql://me/x:pw@host/db", "postgresql://***@host/db"),
        ("password=pw host=h", "password=*** host=h"),
        ("AWS_SECRET_ACCESS_KEY=pw", "AWS_SECRET_ACCESS_KEY=***"),
        ("from 'ftp://me:pw@a' to ftp://me:pw@b.", "from 'ftp://***@a' to ftp://***@b."),
    ],
)
def test_users_and_secrets_of_urls_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me@work/mlflow.db",
        "file:///home/me@work/a:b",
        "s3://bucket/run@1/x",
        "https://host:5000/path",
        "https://host/a@b",
        "use models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID/PATH",
        "train.lr = 'fast': should be a valid number",
        "at 3:50 @ noon, me@work",
        "--set 'targets.codec': expected key=value, such as train.steps=200",
        "--set targets.text_tokens=16 --set targets.image_tokens=48",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_an_error_never_holds_a_password() -> None:
    error = StoreError("can't read 'https://me:pw@host/store': gone")
    for shown in (str(error), repr(error), str(pickle.loads(pickle.dumps(error))), str(from_text(to_text(error)))):
        assert "https://***@host/store" in shown
        assert "pw" not in shown
    assert isinstance(from_text(to_text(error)), StoreError)
    assert isinstance(error, X2IError)


def reason_of(error: Exception) -> str:
    """What is said of an error while the store is being read."""
    with pytest.raises(StoreError) as caught, raising(StoreError, "can't read 's3://store'", (type(error),)):
        raise error
    assert caught.value.__cause__ is error
    return str(caught.value).removeprefix("can't read 's3://store': ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EOFError("it ended  early"), "it ended early"),
        (ValueError("\n  the cause\nand how it came"), "the cause"),
        (EOFError(), "EOFError"),
        (OSError("no number"), "no number"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(5, ValueError("of a store\nthat says more")), "of a store"),
        (FileNotFoundError(2, "No such file", "s3://store"), "No such file"),
        (PermissionError(13, "Permission denied", "/cache/a"), "Permission denied: '/cache/a'"),
        (ValueError(f"{'x' * 280} at https://me:pw-and-more@host"), f"{'x' * 280} at https://***@host"),
        (ValueError("x" * 1000), "x" * 300),
    ],
)
def test_errors_of_others_become_one_short_line_of_ours(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_secret_that_the_cut_would_halve_is_hidden() -> None:
    assert "secret" not in reason_of(ValueError(f"{'x' * 280} https://me:secretsecretsecret@host"))


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), raising(StoreError, "can't read", (OSError,)):
        raise KeyError("ours")


def test_values_of_a_statement_are_not_shown() -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    statement = sqlalchemy.text("select * from runs where name = :name")
    with (
        pytest.raises(RegistryError, match=r"^can't look: \(sqlite3\.OperationalError\) no such table: runs$"),
        raising(RegistryError, "can't look", (SQLAlchemyError,)),
        engine.connect() as connection,
    ):
        connection.execute(statement, {"name": "a value of ours"})


def test_a_file_that_the_disk_refuses_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    for doing, said in ((f"can't read '{path}'", ""), ("can't fetch model 'm'", f": '{path}'")):
        with pytest.raises(StoreError) as caught, raising(StoreError, doing, (OSError,)):
            path.read_bytes()
        assert str(caught.value) == f"{doing}: No such file or directory{said}"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["a:," * 200_000, "?" + "pass" * 200_000, "//" * 400_000, "a@" * 400_000])
def test_a_long_message_is_soon_read(text: str) -> None:
    assert redacted(text) == text or "***" in redacted(text)
