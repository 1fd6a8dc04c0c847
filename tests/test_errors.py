"""Messages are shown, logged and kept: no password of a URL is in them, and nothing else is lost."""

from __future__ import annotations

import pickle

import pytest

from x2i_platform.errors import StoreError, X2IError, from_text, redacted, to_text


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


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["a:," * 200_000, "?" + "pass" * 200_000, "//" * 400_000, "a@" * 400_000])
def test_a_long_message_is_soon_read(text: str) -> None:
    assert redacted(text) == text or "***" in redacted(text)
