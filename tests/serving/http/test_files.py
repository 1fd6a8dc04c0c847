"""`/v1/files` as OpenAI's own client uses it, and what strangers send."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.serving.http.openai_desk import Desk, running
from tests.serving.line_runner import batch_file

BOUNDARY = "boundary"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running(tmp_path, max_file_bytes=64 * 1024**2) as desk:
        yield desk


def form(*parts: tuple[str, str | None, bytes], end: bool = True) -> bytes:
    """A multipart body of `(name, filename, content)`."""
    body = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"' if filename is not None else ""
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def post(desk: Desk, body: bytes, *, kind: str = f"multipart/form-data; boundary={BOUNDARY}") -> httpx.Response:
    return httpx.post(
        f"{desk.url}/v1/files", content=body, headers={"Content-Type": kind, "Authorization": "Bearer me"}
    )


def test_openai_s_client_uploads_lists_reads_and_deletes(desk: Desk) -> None:
    client, content = desk.client(), batch_file("a", "b")
    made = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert (made.object, made.purpose, made.bytes, made.filename, made.status) == (
        *("file", "batch", len(content), "in.jsonl", "processed"),
    )
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == content
    assert [file.id for file in client.files.list()] == [made.id]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as gone:
        client.files.retrieve(made.id)
    assert gone.value.code == "not_found"


def test_lists_come_in_pages(desk: Desk) -> None:
    client = desk.client()
    made = [client.files.create(file=("f", b"{}"), purpose="batch").id for _ in range(5)]
    first = client.files.list(limit=2)
    assert [file.id for file in first.data] == made[:2:-1]
    assert first.has_more
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]  # the client turns the pages
    assert [file.id for file in client.files.list(order="asc", after=made[2])] == made[3:]
    assert client.files.list(purpose="batch_output").data == []
    with pytest.raises(openai.BadRequestError, match="not in the list"):
        client.files.list(after="file-x")
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.files.list(limit=0)


def test_another_key_sees_nothing(desk: Desk) -> None:
    made = desk.client().files.create(file=("in.jsonl", b"{}"), purpose="batch")
    other = desk.client("other")
    assert list(other.files.list()) == []
    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(("purpose", None, b"batch")), "expected multipart/form-data"),
        (form(("file", "a", b"{}")), "purpose: must be 'batch', not 'None'"),
        (form(("purpose", None, b"fine-tune"), ("file", "a", b"{}")), "must be 'batch', not 'fine-tune'"),
        (form(("purpose", None, b"batch"), ("file", "a", b"{}"), ("file", "b", b"{}")), "file: is given twice"),
        (form(("purpose", None, b"batch"), ("file", "a", b"{}"), ("expires_after[seconds]", None, b"9")), "expires"),
        (form(("purpose", None, b"batch"), ("file", "a", b"{}"), end=False), "middle of a part"),
        (form(*[("purpose", None, b"batch")] * 40), "more than 32 parts"),
        (b"not a form", "can't be read"),
        (b"", "middle of a part"),
        (form(("x" * 9000, "a", b"{}")), "can't be read"),
    ],
    ids=["no file", "no purpose", "purpose", "twice", "field", "cut", "parts", "text", "empty", "header"],
)
def test_bad_forms_are_refused_with_a_reason(desk: Desk, body: bytes, message: str) -> None:
    answer = post(desk, body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert list(desk.store.folder.iterdir()) == []


def test_what_is_no_form_and_what_is_too_large(desk: Desk) -> None:
    assert post(desk, b"{}", kind="application/json").status_code == 415
    assert post(desk, b"{}", kind="multipart/form-data").status_code == 415
    assert post(desk, form(("purpose", None, b"b" * 70_000))).status_code == 413
    answer = post(desk, form(("purpose", None, b"batch"), ("file", "a", b"x" * (64 * 1024**2 + 1))))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    assert list(desk.store.folder.iterdir()) == []


def test_a_path_in_a_name_leads_nowhere(desk: Desk) -> None:
    made = post(desk, form(("purpose", None, b"batch"), ("file", "../../evil", b"{}"))).json()
    assert made["filename"] == "evil"
    assert {path.stem for path in desk.store.folder.iterdir()} == {made["id"]}
    answer = httpx.get(f"{desk.url}/v1/files/..%2f..%2fetc%2fpasswd", headers={"Authorization": "Bearer me"})
    assert answer.status_code == 404


def test_a_connection_that_breaks_leaves_nothing(desk: Desk) -> None:
    def half() -> Iterator[bytes]:
        yield form(("purpose", None, b"batch"), ("file", "a", b"x" * 100_000), end=False)
        raise ConnectionError

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Authorization": "Bearer me"}
    with pytest.raises(ConnectionError):
        httpx.post(f"{desk.url}/v1/files", content=half(), headers=headers)
    assert desk.client().files.create(file=("a", b"{}"), purpose="batch").bytes == 2
    assert len(list(desk.store.folder.iterdir())) == 2


def test_memory_stays_flat_while_a_large_file_arrives(tmp_path: Path) -> None:
    size, piece = 300 * 1024**2, os.urandom(1024**2)
    before = psutil.Process().memory_info().rss

    def body() -> Iterator[bytes]:
        yield form(("purpose", None, b"batch"), end=False)
        yield f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'.encode()
        for _ in range(size // len(piece)):
            yield piece
            peaks.append(psutil.Process().memory_info().rss)
        yield f"\r\n--{BOUNDARY}--\r\n".encode()

    peaks: list[int] = []
    with running(tmp_path) as desk:
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Authorization": "Bearer me"}
        answer = httpx.post(f"{desk.url}/v1/files", content=body(), headers=headers, timeout=120)
    assert answer.json()["bytes"] == size
    assert max(peaks) - before < 60 * 1024**2
