"""The result of every drawn case, one JSON line each, written as soon as it is known.

Invariants: the first line identifies the evaluation, and no other one may add to the log; a key occurs once; only one
process at a time has a log open; an incomplete last line after a kill is removed, and any other damaged line is an
error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Literal, NoReturn, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from x2i_platform.digests import differences
from x2i_platform.errors import StoreError
from x2i_platform.files import locked

FORMAT = 1
ALL = "all"
"""Category of a suite's totals; no case may have it."""

Split = Literal["held_out", "seen", "all"]
States = Literal["prompt", "answer", "both", ""]


@dataclass(frozen=True)
class Result:
    """One case: a prompt drawn by the model and by its baseline from the same noise."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    key: str
    suite: str
    split: Split
    states: States
    """Whose hidden states conditioned the image: those of the prompt, of the MLLM's answer, or both; empty if that
    doesn't apply."""
    category: str
    prompt: str
    seed: int
    right: bool | None
    """Whether the image shows its prompt; None where nothing judges."""
    reason: str
    baseline_right: bool | None
    baseline_reason: str
    psnr: float | None
    """In dB, to the baseline's image of the same seed."""
    ssim: float | None
    seconds: float
    """Time the model's image took."""
    group: str = ""
    """Cases of one group are not independent and are resampled together. By default the cases of one prompt are a
    group, such as several seeds of a prompt. If one text belongs to many pictures, name the picture here."""
    composition: str = ""
    """What is new in a case that training never shows; empty if nothing is, or if it isn't known."""


_RESULT = TypeAdapter(Result)


class ResultLog:
    """The results so far, and the file they lie in. Use it in a `with`."""

    def __init__(self, path: Path, handle: BinaryIO, results: dict[str, Result], held: ExitStack) -> None:
        self.path = path
        self.results = results
        self._handle = handle
        self._held = held

    @classmethod
    def open(cls, path: Path, *, fingerprint: Mapping[str, Any]) -> ResultLog:
        """Open a log or start one; `fingerprint` is what its figures depend on.

        Raises StoreError if it belongs to another evaluation, naming the fields, is damaged, or is in use.
        """

        def refuse() -> NoReturn:
            raise StoreError(f"results '{path}' are being written by another evaluation; wait for it to end")

        with ExitStack() as held:
            held.enter_context(locked(path, on_wait=refuse))
            handle = held.enter_context(path.open("a+b"))
            results = _continue(handle, path, {"format": FORMAT, "fingerprint": dict(fingerprint)})
            return cls(path, handle, results, held.pop_all())

    def add(self, result: Result) -> None:
        """Append a result. Raises ValueError if its key is taken or it can't be written: NaN, a wrong type."""
        if result.key in self.results:
            raise ValueError(f"result '{result.key}' is there already")
        line = json.dumps(vars(result), ensure_ascii=False, allow_nan=False).encode()
        # Read back first: a line that can't be read on the next start must not be written.
        self.results[result.key] = _RESULT.validate_json(line)
        self._handle.write(line + b"\n")
        self._handle.flush()

    def close(self) -> None:
        """Close the log, so that another process can open it."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _continue(handle: BinaryIO, path: Path, header: dict[str, Any]) -> dict[str, Result]:
    """The results of a log, without an incomplete last line; writes the header of a new log."""
    handle.seek(0)
    content = handle.read()
    whole = content.rfind(b"\n") + 1
    handle.truncate(whole)
    lines = content[:whole].split(b"\n")[:-1]
    # Compared as JSON: a tuple of ours is a list there.
    header = json.loads(json.dumps(header, ensure_ascii=False, allow_nan=False))
    if not lines:
        handle.write(json.dumps(header, ensure_ascii=False).encode() + b"\n")
        handle.flush()
        return {}
    _require(header, lines[0], path)
    results: dict[str, Result] = {}
    for number, line in enumerate(lines[1:], start=2):
        result = _parsed(line, f"{path}:{number}")
        if result.key in results:
            raise StoreError(f"{path}:{number}: result '{result.key}' is there twice; delete one of the lines")
        results[result.key] = result
    return results


def _require(ours: dict[str, Any], line: bytes, path: Path) -> None:
    try:
        theirs = json.loads(line)
    except ValueError:
        theirs = None
    if not isinstance(theirs, dict) or not isinstance(theirs.get("fingerprint"), dict):
        raise StoreError(f"{path}:1: not the first line of a results log; choose another folder or delete the file")
    if theirs.get("format") != FORMAT:
        raise StoreError(f"results '{path}' have format {theirs.get('format')!r}; this version reads {FORMAT}")
    if unequal := differences(ours["fingerprint"], theirs["fingerprint"], where="in the report"):
        raise StoreError(
            f"results '{path}' are of another evaluation ({'; '.join(unequal)}); choose another folder or delete them"
        )


def _parsed(line: bytes, place: str) -> Result:
    try:
        return _RESULT.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "line"
        raise StoreError(
            f"{place}: damaged result, {field}: {first['msg']}; delete the line to have it drawn again"
        ) from None
