"""Lines of OpenAI's batch files: requests in, answers and refusals out. Free of Ray.

    {"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a red circle"}}

Invariants: a line is checked as the service checks a request to its URL; a bad line never stops its neighbours; a
`custom_id` is answered once, and one that comes again in the same file is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from x2i_platform.digests import digest
from x2i_platform.errors import InputError, raising
from x2i_platform.serving.api import MAX_SEED, EditRequest, GenerationRequest, error_body, validation_body
from x2i_platform.streams import OUTSIDE, opened


class Endpoint(NamedTuple):
    """How the body of a line is read."""

    read: Callable[[dict[str, Any]], GenerationRequest]
    """Raises ValidationError."""
    fields: Collection[str]
    """Of the body, for hints at misspelt ones."""


ENDPOINTS: Mapping[str, Endpoint] = {
    "/v1/images/generations": Endpoint(GenerationRequest.model_validate, GenerationRequest.model_fields),
    "/v1/images/edits": Endpoint(lambda body: EditRequest.model_validate(body).request(), EditRequest.model_fields),
}
"""What a batch may ask for, by URL."""
MAX_LINE_BYTES = 64 * 1024**2
"""Of a line: a request with media. What is longer is skipped unread."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    custom_id: Annotated[str, Field(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """Why a line is not made, as the service would answer it; without a status, why it was not tried."""

    error: Mapping[str, Any]
    """OpenAI's error object: message, type, param, code."""
    status: int | None = 400

    @classmethod
    def of(
        cls, message: str, *, param: str | None = None, code: str | None = None, status: int | None = 400
    ) -> Refusal:
        """A refusal in our words."""
        return cls(error_body(message, param=param, code=code)["error"], status)


@dataclass(frozen=True)
class BatchLine:
    """A line with its number, from 1: a request, or why it isn't one."""

    line: int
    custom_id: str | None
    request: GenerationRequest | None = None
    refusal: Refusal | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """A seed an image. Where none is asked for, `custom_id` decides: the same line makes the same images again."""
        assert self.request is not None
        first = self.request.seed
        if first is None:
            first = int.from_bytes(hashlib.sha256(str(self.custom_id).encode()).digest()[:4], "big")
        return tuple((first + number) % (MAX_SEED + 1) for number in range(self.request.n))

    def answered(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The line of the output file."""
        return {**self._ids(), "response": self._response(200, body), "error": None}

    def refused(self, refusal: Refusal) -> dict[str, Any]:
        """The line of the error file. What the service would have answered is there as `response`."""
        response = None if refusal.status is None else self._response(refusal.status, {"error": refusal.error})
        code = refusal.error["code"] or "invalid_request"
        return {**self._ids(), "response": response, "error": {"code": code, "message": refusal.error["message"]}}

    def _ids(self) -> dict[str, Any]:
        return {"id": f"batch_req_{self._digest()}", "custom_id": self.custom_id}

    def _response(self, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
        return {"status_code": status, "request_id": f"req_{self._digest()}", "body": body}

    def _digest(self) -> str:
        return digest([self.line, self.custom_id])[:24]


def is_batch(path: str) -> bool:
    """Whether a file of JSON Lines is in this format: its first line tells. Raises InputError if it can't be read."""
    with opened(path, what="requests") as handle, raising(InputError, f"requests '{path}' can't be read", OUTSIDE):
        for _, raw in _numbered(handle):
            try:
                value = json.loads(raw or b"")
            except (ValueError, RecursionError):
                return False
            return isinstance(value, dict) and "custom_id" in value and bool({"url", "body"} & value.keys())
    return False


def read_batch(path: str, *, names: Collection[str], endpoint: str | None = None) -> Iterator[BatchLine]:
    """All lines of a batch file that are not empty; a body may name the model by one of `names`.

    With an `endpoint`, lines for another URL are refused. Raises InputError if the file can't be read.
    """
    seen: set[str] = set()
    with opened(path, what="requests") as handle, raising(InputError, f"requests '{path}' can't be read", OUTSIDE):
        for number, raw in _numbered(handle):
            line = _parsed(number, raw, names=names, endpoint=endpoint)
            if line.custom_id is not None and line.custom_id in seen:
                message = f"custom_id {line.custom_id[:100]!r} was on an earlier line; it must be unique"
                line = BatchLine(
                    number, line.custom_id, refusal=Refusal.of(message, param="custom_id", code="duplicate_custom_id")
                )
            seen |= {line.custom_id} if line.custom_id is not None else set()
            yield line


def first_model(path: str) -> str | None:
    """The model that the first readable line names. Raises InputError if the file can't be read."""
    with opened(path, what="requests") as handle, raising(InputError, f"requests '{path}' can't be read", OUTSIDE):
        for _, raw in _numbered(handle):
            try:
                model = json.loads(raw or b"")["body"].get("model")
            except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
                continue
            return model if isinstance(model, str) else None
    return None


def count_lines(path: str) -> int:
    """Lines that are not empty. Raises InputError if the file can't be read."""
    with opened(path, what="requests") as handle, raising(InputError, f"requests '{path}' can't be read", OUTSIDE):
        return sum(1 for _ in _numbered(handle))


def _numbered(handle: io.BufferedReader) -> Iterator[tuple[int, bytes | None]]:
    """Numbers and bytes of lines that are not empty; None for one that is too long."""
    number = 0
    while raw := handle.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := handle.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        elif raw.strip():
            yield number, raw


def _parsed(number: int, raw: bytes | None, *, names: Collection[str], endpoint: str | None) -> BatchLine:
    if raw is None:
        return BatchLine(number, None, refusal=Refusal.of(f"the line has more than {MAX_LINE_BYTES:,} bytes"))
    try:
        value: Any = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return BatchLine(number, None, refusal=Refusal.of(f"not JSON in UTF-8: {error}", code="invalid_json_line"))
    if not isinstance(value, dict):
        message = f"expected a JSON object, not {type(value).__name__}"
        return BatchLine(number, None, refusal=Refusal.of(message, code="invalid_json_line"))
    custom_id = value.get("custom_id")
    custom_id = custom_id if isinstance(custom_id, str) else None
    try:
        request = _request(_Line.model_validate(value), names=names, endpoint=endpoint)
    except ValidationError as error:
        fields = ENDPOINTS[value["url"]].fields if value.get("url") in list(ENDPOINTS) else ()
        return BatchLine(number, custom_id, refusal=Refusal(validation_body(error.errors()[0], fields=fields)["error"]))
    except RecursionError:
        return BatchLine(number, custom_id, refusal=Refusal.of("the body is nested too deeply"))
    if isinstance(request, Refusal):
        return BatchLine(number, custom_id, refusal=request)
    return BatchLine(number, custom_id, request)


def _request(line: _Line, *, names: Collection[str], endpoint: str | None) -> GenerationRequest | Refusal:
    """The request of a line. Raises ValidationError for its body."""
    if line.url not in ENDPOINTS:
        return Refusal.of(
            f"url: {line.url[:100]!r} is not offered; there is {', '.join(ENDPOINTS)}", param="url", code="invalid_url"
        )
    if endpoint not in (None, line.url):
        return Refusal.of(f"url: the batch is for {endpoint}, not {line.url}", param="url", code="mismatched_endpoint")
    request = ENDPOINTS[line.url].read(line.body)
    if request.stream:
        return Refusal.of("stream: a line of a batch has no stream", param="stream")
    if request.model is not None and request.model not in names:
        message = f"there is no model {request.model[:100]!r} in this batch; it runs {min(names, key=len)!r}"
        return Refusal.of(message, param="model", code="model_not_found", status=404)
    return request


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
