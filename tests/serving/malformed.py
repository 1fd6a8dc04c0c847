"""Requests that are wrong, made by hand and by the thousand: every one must be refused with a reason.

for request in malformed(10_000, seed=0):
    ...  # send it
    assert not (problem := wrong_with(request, status, body)), problem
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.media import hostile
from tests.serving.malformed_values import (
    BASES,
    BATCHES,
    EDITS,
    FIELDS,
    FILES,
    GENERATIONS,
    JOBS,
    NO_JSON,
    NO_MESSAGES,
    NO_OBJECT,
    NO_TYPES,
    PICTURE,
)

JSON = "application/json"
BOUNDARY = "x2i-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Malformed:
    """A request, and what is wrong with it."""

    why: str
    path: str
    body: bytes
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": JSON})


def malformed(count: int, *, seed: int) -> Iterator[Malformed]:
    """So many wrong requests, the same ones for the same seed."""
    draw = random.Random(seed)
    for _ in range(count):
        kind = draw.choices(KINDS, weights=WEIGHTS)[0]
        yield _dressed(kind(draw), draw)


def wrong_with(request: Malformed, status: int, body: bytes) -> str | None:
    """What is wrong with an answer: it must be a refusal, with a reason, in OpenAI's form."""
    shown = f"{request.method} {request.path}, {request.why}: {status} {body[:200]!r} to {request.body[:200]!r}"
    if not 400 <= status < 500:
        return f"not refused: {shown}"
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"not in OpenAI's form: {shown}"
    if not isinstance(message, str) or not message.strip():
        return f"no reason: {shown}"
    return f"tells of the server: {shown}" if any(word in message for word in LEAKS) else None


LEAKS = ("Traceback", "site-packages", ".py", "object at 0x", "<class")


def _wrong_field(draw: random.Random) -> Malformed:
    path = draw.choice(list(FIELDS))
    name = draw.choice(list(FIELDS[path]))
    value = draw.choice(FIELDS[path][name])
    return Malformed(f"{name} is {value[:40]}", path, _object({**BASES[path], name: value}, draw))


def _unknown_field(draw: random.Random) -> Malformed:
    path = draw.choice(list(BASES))
    name = draw.choice(
        ("sede", "Prompt", "", r"\ud800", r"\u0000", "__class__", "x" * 5000, "a.b", "🐈", "constructor")
    )
    value = draw.choice(("null", "1", '"x"', "{}", _deep(draw, most=50)))
    if value == "null":
        value = "0"  # a field that is null is as if left out, whatever its name
    return Malformed(f"unknown field {name[:20]}", path, _object({**BASES[path], name: value}, draw))


def _missing_field(draw: random.Random) -> Malformed:
    path = draw.choice(list(BASES))
    without = draw.choice(list(BASES[path]))
    value = draw.choice((None, "null"))
    body = {name: value_ for name, value_ in BASES[path].items() if name != without}
    return Malformed(f"no {without}", path, _object(body if value is None else {**body, without: value}, draw))


def _twice(draw: random.Random) -> Malformed:
    path = draw.choice(list(FIELDS))
    name = draw.choice(list(BASES[path]))
    wrong = draw.choice(FIELDS[path][name])
    body = _object(BASES[path], draw)[:-1] + f', "{name}": {wrong}}}'.encode("utf-8", "surrogatepass")
    return Malformed(f"{name} twice, the last wrong", path, body)


def _no_json(draw: random.Random) -> Malformed:
    return Malformed("no JSON", draw.choice(list(BASES)), draw.choice(NO_JSON).encode())


def _no_object(draw: random.Random) -> Malformed:
    return Malformed("no object", draw.choice(list(BASES)), draw.choice(NO_OBJECT).encode())


def _cut(draw: random.Random) -> Malformed:
    path = draw.choice(list(BASES))
    body = _object(BASES[path], draw)
    return Malformed("cut off", path, body[: draw.randrange(len(body))])


def _noise(draw: random.Random) -> Malformed:
    body = bytes([draw.choice(b"\xff\xc0\xc1\xf8\xfe")]) + draw.randbytes(draw.choice((0, 10, 1000, 100_000)))
    return Malformed("noise", draw.choice(list(BASES)), body)


def _no_utf8(draw: random.Random) -> Malformed:
    path = draw.choice(list(BASES))
    raw = draw.choice((b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"))
    return Malformed("not UTF-8", path, _object({**BASES[path], "user": '"@"'}, draw).replace(b"@", raw))


def _bomb(draw: random.Random) -> Malformed:
    path = draw.choice(list(BASES))
    name = draw.choice([*FIELDS[path], "x"])
    return Malformed(f"{name} is deep", path, _object({**BASES[path], name: _deep(draw, most=200_000)}, draw))


def _bare_bomb(draw: random.Random) -> Malformed:
    depth, opening = draw.choice((100, 10_000, 200_000)), draw.choice(("[", '{"a":', '[{"prompt":'))
    return Malformed("deep and open", draw.choice(list(BASES)), (opening * depth).encode())


def _no_messages(draw: random.Random) -> Malformed:
    messages = draw.choice(NO_MESSAGES)
    return Malformed("messages", draw.choice((GENERATIONS, JOBS)), _object({"messages": messages}, draw))


def _no_part(draw: random.Random) -> Malformed:
    kind = draw.choice(
        ("image", "image_url", "video", "video_url", "audio", "audio_url", "input_audio", "file", "text")
    )
    value = draw.choice(
        ("", "cat.png", "/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/", "data:", "\ud800")
    )
    part: dict[str, Any] = {
        "type": kind,
        kind: draw.choice((value, {"url": value}, {"url": {}}, {"data": value}, [], None, 5)),
    }
    if kind == "text" and isinstance(part["text"], str):
        part["text"] = draw.choice(("", " ", "\ud800", "a" * 20_001))
    if draw.random() < 0.2:
        part["weight"] = draw.choice((-1, 11, "x", True, float("nan"), 10**400))
    # A job's media are looked at when its turn comes.
    path = GENERATIONS if kind == "input_audio" else draw.choice((GENERATIONS, JOBS))
    return Malformed(f"part {kind}", path, _object({"prompt": json.dumps([part])}, draw))


def _bad_medium(draw: random.Random) -> Malformed:
    kind, content = draw.choice(MEDIA)(draw)
    data = base64.b64encode(content).decode()
    if draw.random() < 0.2:
        data = draw.choice((data[:-1] + "%", "*" + data, data + "\n", "=" * 10, "\u00e9", data[:-3] + "="))
    url = f"data:{kind};base64,{data}"
    path = draw.choice((GENERATIONS, EDITS))
    if path == EDITS:
        return Malformed(
            f"bad {kind}", path, _object({**BASES[path], "images": json.dumps([{"image_url": url}])}, draw)
        )
    key = f"{kind.partition('/')[0]}_url"
    parts = [{"type": key, key: {"url": url}}, {"type": "text", "text": "a"}]
    return Malformed(f"bad {kind}", path, _object({"prompt": json.dumps(parts)}, draw))


def _cut_picture(draw: random.Random) -> tuple[str, bytes]:
    content = hostile.picture(draw.choice(("PNG", "JPEG", "WEBP", "GIF")))
    return "image/png", content[: draw.randrange(len(content) // 2)]


def _huge_picture(draw: random.Random) -> tuple[str, bytes]:
    return "image/png", hostile.png(draw.choice((30_000, 2**31 - 1)), draw.choice((30_000, 100_000)))


def _other_bytes(draw: random.Random) -> tuple[str, bytes]:
    kind = draw.choice(("image/png", "image/svg+xml", "video/mp4", "audio/wav"))
    return kind, draw.choice(
        (b"", b"\0", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4", b"GIF89a", b"a" * 999)
    )


MEDIA: tuple[Callable[[random.Random], tuple[str, bytes]], ...] = (_cut_picture, _huge_picture, _other_bytes)


def _wrong_type(draw: random.Random) -> Malformed:
    path, kind = draw.choice((GENERATIONS, JOBS, EDITS, BATCHES)), draw.choice(NO_TYPES)
    return Malformed(f"Content-Type {kind}", path, b"prompt=a", headers={"Content-Type": kind})


def _form(draw: random.Random) -> Malformed:
    path = draw.choice((EDITS, FILES))
    why, body = draw.choice(_forms(path))
    boundary = draw.choice(
        (f"; boundary={BOUNDARY}",) * 8 + ("", "; boundary=", "; boundary=other", f"; boundary={'x' * 5000}")
    )
    return Malformed(f"form {why}", path, body, headers={"Content-Type": f"multipart/form-data{boundary}"})


def _forms(path: str) -> list[tuple[str, bytes]]:
    name = "image" if path == EDITS else "file"
    right = _field("prompt", "a") if path == EDITS else _field("purpose", "batch")
    file = _file(name, PICTURE)
    end = f"--{BOUNDARY}--\r\n".encode()
    return [
        ("empty", b""),
        ("only its end", end),
        ("without a file", right + end),
        ("without an end", right + file),
        ("cut off", (right + file)[: -len(PICTURE)]),
        ("without other fields", file + end),
        ("of noise", b"\0\xff" * 1000),
        ("without a name", right + _part("", PICTURE) + end),
        ("with a header that never ends", b"--" + BOUNDARY.encode() + b"\r\n" + b"A" * 100_000),
        ("with many headers", b"--" + BOUNDARY.encode() + b"\r\n" + b"A: b\r\n" * 5000 + b"\r\n"),
        ("with many fields", b"".join(_field(f"a{number}", "b") for number in range(2000)) + end),
        ("with an unknown field", right + file + _field("sede", "1") + end),
        ("whose file is another text", right + _field(name, "no file") + _field(f"{name}s", "a") + end),
        ("whose text is a file", _file("prompt" if path == EDITS else "purpose", b"a") + file + end),
        ("with half a surrogate", _field("prompt", "\ud800") + _field("purpose", "\ud800") + end),
        ("that is JSON", b'{"prompt": "a"}'),
        ("of another purpose", _field("purpose", "fine-tune") + _field("prompt", "") + file + end),
    ]


def _field(name: str, value: str) -> bytes:
    return _part(f'; name="{name}"', value.encode("utf-8", "surrogatepass"))


def _file(name: str, content: bytes) -> bytes:
    return _part(f'; name="{name}"; filename="a.bin"\r\nContent-Type: application/octet-stream', content)


def _part(disposition: str, content: bytes) -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data{disposition}\r\n\r\n".encode() + content + b"\r\n"


def _wrong_route(draw: random.Random) -> Malformed:
    path = draw.choice(list(BASES))
    other = draw.choice(("/", "x", "%00", "/../../etc/passwd", "%2e%2e/", "/" + "a" * 5000, "?" + "a=b&" * 1000, ";x"))
    if draw.random() < 0.5:
        return Malformed("method", path, b"{}", method=draw.choice(("PUT", "PATCH", "TRACE", "PROPFIND")))
    return Malformed("route", f"/v1/nowhere{other}", b"{}", method=draw.choice(("GET", "POST", "DELETE")))


def _huge_head(draw: random.Random) -> Malformed:
    headers = {"Content-Type": JSON, **{f"X-{number}": "a" * 7000 for number in range(draw.choice((5, 8)))}}
    return Malformed("40,000 bytes of headers", draw.choice(list(BASES)), b'{"prompt": "a cat"}', headers=headers)


def _packed(draw: random.Random) -> Malformed:
    kind = draw.choice(("gzip", "deflate", "br", "zstd", "identity, gzip", "x"))
    headers = {"Content-Type": JSON, "Content-Encoding": kind}
    return Malformed(f"packed as {kind}", draw.choice(list(BASES)), draw.randbytes(100), headers=headers)


KINDS = (
    *(_wrong_field, _unknown_field, _missing_field, _twice, _no_json, _no_object, _cut, _noise, _no_utf8, _bomb),
    *(_bare_bomb, _no_messages, _no_part, _bad_medium, _wrong_type, _form, _wrong_route, _huge_head, _packed),
)
WEIGHTS = (30, 6, 3, 5, 6, 3, 5, 3, 3, 3, 1, 5, 8, 8, 3, 8, 3, 1, 1)


def _object(fields: dict[str, str], draw: random.Random) -> bytes:
    """A JSON object of fields and their values as JSON, in any order."""
    items = list(fields.items())
    draw.shuffle(items)
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in items) + "}").encode("utf-8", "surrogatepass")


def _deep(draw: random.Random, *, most: int) -> str:
    depth = draw.choice([each for each in (10, 50, 500, 900, 1000, 5000, 100_000, 200_000) if each <= most])
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}"), ('[{"prompt":', "}]")))
    return opening * depth + "1" + closing * depth


def _dressed(request: Malformed, draw: random.Random) -> Malformed:
    """The request, sometimes with headers that are odd and mean nothing."""
    if draw.random() < 0.9:
        return request
    odd = draw.choice(({"X-Long": "a" * 20_000}, {"Accept": "text/html"}, {"X-Request-Id": "a b"}, {"Expect": "x"}))
    return Malformed(request.why, request.path, request.body, request.method, {**request.headers, **odd})
