"""OpenAI's batch lines: what is taken, what is refused and how, and the lines of the files that answer."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.media import hostile
from x2i_platform.serving import batch_lines
from x2i_platform.serving.batch_lines import BatchLine, Refusal, count_lines, first_model, is_batch, read_batch

URL, EDITS = "/v1/images/generations", "/v1/images/edits"
PICTURE = f"data:image/png;base64,{base64.b64encode(hostile.picture()).decode()}"


def line(custom_id: object = "a", **changes: Any) -> str:
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"prompt": "a red circle"}} | changes
    )


def read(tmp_path: Path, *lines: str, endpoint: str | None = None) -> list[BatchLine]:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return list(read_batch(str(path), names={"m", "models:/m/1"}, endpoint=endpoint))


def test_a_good_line_is_the_request_of_its_body(tmp_path: Path) -> None:
    body = {"prompt": "a", "n": 2, "seed": 7, "output_format": "webp", "model": "m", "size": "64x32"}
    [found] = read(tmp_path, "", line(body=body))
    assert (found.line, found.custom_id, found.seeds, found.refusal) == (2, "a", (7, 8), None)
    assert found.request
    assert (found.request.output_format, found.request.size) == ("webp", "64x32")


def test_an_edit_is_a_prompt_with_its_images_first(tmp_path: Path) -> None:
    [found] = read(tmp_path, line(url=EDITS, body={"prompt": "in blue", "images": [{"image_url": PICTURE}], "seed": 3}))
    assert found.request
    assert not isinstance(found.request.content, str)
    [message] = found.request.content
    assert [(part.kind, part.value) for part in message.parts] == [("image", PICTURE), ("text", "in blue")]
    assert (found.request.words, found.seeds) == ("in blue", (3,))


def test_without_a_seed_the_id_decides(tmp_path: Path) -> None:
    first, second = read(tmp_path, line("a"), line("b"))
    [moved] = read(tmp_path, line("a"))
    assert first.seeds == moved.seeds != second.seeds


@pytest.mark.parametrize(
    ("text", "custom_id", "param", "message"),
    [
        ("{", None, None, "not JSON in UTF-8"),
        ("[1]", None, None, "expected a JSON object, not list"),
        ("[" * 100_000, None, None, "recursion"),
        (line(7), None, "custom_id", "valid string"),
        (line(""), "", "custom_id", "at least 1 character"),
        (line(method="GET"), "a", "method", "'POST'"),
        (line(url="/v1/chat/completions"), "a", "url", "is not offered; there is /v1/images/generations, /v1"),
        (line(body=[]), "a", None, "the body: Input should be a valid dictionary"),
        (line(body={}), "a", None, "give either 'prompt' or 'messages'"),
        (line(body={"prompt": " "}), "a", "prompt", "must not be blank"),
        (line(body={"prompt": "\ud800"}), "a", "prompt", "Unicode"),
        (line(body={"prompt": "a", "n": 11}), "a", "n", "less than or equal to 10"),
        (line(body={"prompt": "a", "sede": 1}), "a", "sede", "did you mean 'seed'"),
        (line(body={"prompt": "a", "stream": True}), "a", "stream", ""),
        (line(body={"prompt": [{"type": "image_url", "image_url": "file:///etc/passwd"}]}), "a", "prompt", "URL"),
        (line(body={"prompt": [{"type": "image", "image": "/etc/passwd"}]}), "a", "prompt", "only data URLs"),
        (line(more=1), "a", "more", "unknown field"),
        (line(url={"a": 1}), "a", "url", "valid string"),
        (line(url=EDITS, body={"prompt": "a"}), "a", "images", "required"),
        (line(url=EDITS, body={"prompt": "a", "images": [], "imges": 1}), "a", "images", "at least 1 item"),
        (
            line(url=EDITS, body={"prompt": "a", "images": [{"image_url": PICTURE}], "imges": 1}),
            "a",
            "imges",
            "'images'",
        ),
        (line(url=EDITS, body={"prompt": "a", "images": [{"image_url": "http://h/a.png"}]}), "a", "prompt", "URL"),
    ],
)
def test_bad_lines_are_refused_as_the_service_does(
    tmp_path: Path, text: str, custom_id: str | None, param: str | None, message: str
) -> None:
    found, good = read(tmp_path, text, line("good"))
    assert good.request
    assert found.request is None
    assert found.refusal
    assert (found.custom_id, found.refusal.status, found.refusal.error["param"]) == (custom_id, 400, param)
    assert message in found.refusal.error["message"]
    written = json.loads(json.dumps(found.refused(found.refusal)))
    assert (written["custom_id"], written["response"]["status_code"]) == (custom_id, 400)
    assert written["response"]["body"]["error"]["message"] == written["error"]["message"]
    assert written["error"]["code"]


def test_an_id_counts_once(tmp_path: Path) -> None:
    first, second, third = read(tmp_path, line("a", method="GET"), line("a"), line("b"))
    assert first.refusal
    assert second.refusal
    assert second.refusal.error["code"] == "duplicate_custom_id"
    assert third.request


def test_another_model_or_endpoint_is_refused(tmp_path: Path) -> None:
    other, mine = read(tmp_path, line("a", body={"prompt": "a", "model": "x"}), line("b"), endpoint=URL)
    assert other.refusal
    assert (other.refusal.status, other.refusal.error["code"]) == (404, "model_not_found")
    assert mine.request
    [wrong] = read(tmp_path, line(), endpoint="/v1/images/edits")
    assert wrong.refusal
    assert wrong.refusal.error["code"] == "mismatched_endpoint"


def test_lines_that_are_too_long_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "MAX_LINE_BYTES", 300)
    long, good = read(tmp_path, line("a", body={"prompt": "p" * 1000}), line("b"))
    assert long.refusal
    assert "more than 300 bytes" in long.refusal.error["message"]
    assert (good.line, good.custom_id) == (2, "b")


def test_lines_of_the_files_that_answer() -> None:
    found = BatchLine(3, "a")
    answer = found.answered({"data": []})
    assert answer["id"].startswith("batch_req_")
    assert answer == {
        **{"id": answer["id"], "custom_id": "a", "error": None},
        "response": {"status_code": 200, "request_id": answer["response"]["request_id"], "body": {"data": []}},
    }
    never = found.refused(Refusal.of("too late", code="batch_expired", status=None))
    assert (never["response"], never["error"]) == (None, {"code": "batch_expired", "message": "too late"})


def test_the_format_is_told_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    for text, expected in (
        (f"\n{line()}\n", True),
        ('{"prompt": "a"}', False),
        ('{"prompt": "a", "custom_id": "b"}', False),
        ("not JSON", False),
        ("", False),
    ):
        path.write_text(text)
        assert is_batch(str(path)) is expected


def test_the_first_line_names_the_model(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(["{", line(), line("b", body={"model": "m"})]))
    assert (first_model(str(path)), count_lines(str(path))) == (None, 3)
    path.write_text(line(body={"model": "m"}))
    assert first_model(str(path)) == "m"
