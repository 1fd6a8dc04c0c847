"""OpenAI's batch files → images → output and error files, offline and for the service.

A line becomes as many rows of the generator pool as it asks for images. An image's file name holds a hash of its line's
`custom_id` and of all that decides it, so a run that was killed makes what is missing, in any order of lines.
The output files are written at the end, from the images that are there.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from pipelines.generator_pool import Outcome, Row, Work, demand_of, make
from pipelines.image_folder import IMAGES, GenerationSummary, answer_of, present, write_index, write_sheet
from pipelines.ray_cluster.session import ray_session
from x2i_platform import fingerprint
from x2i_platform.config import Recipe
from x2i_platform.digests import digest
from x2i_platform.features.files import Files
from x2i_platform.generation.content import identity_of
from x2i_platform.generation.provenance import image_bytes
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.weights import identity
from x2i_platform.progress import Progress
from x2i_platform.recipes import override
from x2i_platform.serving.api import response_body
from x2i_platform.serving.batch_lines import BatchLine, Refusal, read_batch
from x2i_platform.serving.pinned import Pinned
from x2i_platform.serving.travel import Drawn

OUTPUT_FILE, ERRORS_FILE = "output.jsonl", "errors.jsonl"
NOT_MADE = Refusal.of("the image was not made; run the command again", code="not_made", status=None)


@dataclass(frozen=True)
class Batch:
    """A batch file, the model that makes it, and where."""

    requests: str
    out: str
    folder: Path
    recipe: Recipe
    model: Pinned
    endpoint: str | None = None

    def lines(self) -> Iterator[BatchLine]:
        """The lines, read anew."""
        return read_batch(self.requests, names=set(self.model.names), endpoint=self.endpoint)

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """What answers and images say about the model."""
        return self.model.facts

    def rows(self, line: BatchLine) -> list[Row]:
        """The images of a line; none if it is refused."""
        if line.request is None:
            return []
        content, settings = line.request.content, line.request.settings(self.recipe.generate)
        messages = () if isinstance(content, str) else content
        decides = identity_of(messages)
        row = {
            "line": line.line,
            "id": line.custom_id,
            "prompt": line.request.words,
            "messages": [asdict(message) for message in messages],
            "media": [one for one in decides if one[0] not in ("text", "role")],
            "settings": settings.model_dump(),
            "model": self.facts["digest"],
            "facts": dict(self.facts),
            "extra": {},
        }
        shared = [line.custom_id, decides or line.request.words, settings.identity(), self.facts["digest"]]
        names = [f"{IMAGES}/{digest([*shared, seed])[:24]}.png" for seed in line.seeds]
        return [{**row, "seed": seed, "file": name} for seed, name in zip(line.seeds, names, strict=True)]


@dataclass
class Tally:
    """How far a run is, in lines."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    """The line of each image that is not there."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why an image couldn't be made."""
    _open: Counter[int] = field(default_factory=Counter)
    _bad: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, batch: Batch) -> Tally:
        """Look at what is there."""
        tally, there = cls(), present(Files(batch.out))
        for line in batch.lines():
            missing = {row["file"]: line.line for row in batch.rows(line) if row["file"] not in there}
            tally.total += 1
            tally.failed += line.request is None
            tally.completed += line.request is not None and not missing
            tally.missing |= missing
            if missing:
                tally._open[line.line] = len(missing)
        return tally

    def add(self, outcome: Outcome) -> None:
        """Count an image. A line is done when its last one is."""
        line = self.missing[outcome.file]
        self._open[line] -= 1
        if outcome.error:
            self.failures[outcome.file] = outcome.error
            self._bad.add(line)
        if not self._open[line]:
            self.failed += line in self._bad
            self.completed += line not in self._bad


@dataclass(frozen=True)
class Written:
    """Lines of the output file and of the error file."""

    completed: int
    failed: int


def run(
    folder: Path,
    *,
    requests: str,
    out: str,
    overrides: Sequence[str] = (),
    address: str | None = None,
    called: tuple[str, str] | None = None,
    on_progress: Progress,
) -> GenerationSummary:
    """Make every line of a batch file with the model in a folder. `overrides` go on top of the model's recipe.

    `called` is the model's name and version, as answers tell them and lines may name it.
    """
    started = time.monotonic()
    batch = _offline(folder, requests=requests, out=out, overrides=overrides, called=called)
    tally = Tally.of(batch)
    if tally.missing:
        with ray_session(address, demand=demand_of(batch.recipe)):
            for done, _ in enumerate(run_missing(batch, tally), start=1):
                on_progress(done, len(tally.missing))
    written = write_results(batch, failures=tally.failures, left_out=NOT_MADE)
    rows = [row for row in _listed(batch) if row["file"] not in tally.failures]
    write_index(Files(out), rows)
    write_sheet(Files(out), rows)
    made = len(tally.missing) - len(tally.failures)
    return GenerationSummary.of(
        out, requests=tally.total, images=len(rows), made=made, failed=written.failed, started=started
    )


def run_missing(batch: Batch, tally: Tally) -> Iterator[Outcome]:
    """Make the images that are missing, in a Ray session, and count them."""

    def rows() -> Iterator[Row]:
        return (row for line in batch.lines() for row in batch.rows(line) if row["file"] in tally.missing)

    for outcome in make(Work(rows, len(tally.missing)), folder=batch.folder, recipe=batch.recipe, out=batch.out):
        tally.add(outcome)
        yield outcome


def write_results(batch: Batch, *, failures: Mapping[str, str], left_out: Refusal) -> Written:
    """Write the output and the error file from the images that are there, line by line.

    A line with an image in `failures` is refused with the reason, one that lacks an image otherwise is `left_out`.
    """
    files = Files(batch.out)
    there = present(files)
    counts = Counter[str]()
    with ExitStack() as closing:
        scratch = {name: closing.enter_context(files.scratch_file()) for name in (OUTPUT_FILE, ERRORS_FILE)}
        with scratch[OUTPUT_FILE].open("wb") as output, scratch[ERRORS_FILE].open("wb") as errors:
            for line in batch.lines():
                rows = batch.rows(line)
                refusal = _refusal(line, rows, there=there, failures=failures, left_out=left_out)
                if refusal is None:
                    _write_line(output, line.answered(_body(batch, line, rows=rows, files=files)))
                else:
                    _write_line(errors, line.refused(refusal))
                counts[OUTPUT_FILE if refusal is None else ERRORS_FILE] += 1
        for name, path in scratch.items():
            files.adopt(path, name)
    return Written(completed=counts[OUTPUT_FILE], failed=counts[ERRORS_FILE])


def _offline(
    folder: Path, *, requests: str, out: str, overrides: Sequence[str], called: tuple[str, str] | None
) -> Batch:
    recipe = override(read_recipe(folder), overrides)
    name, source = called or (folder.name, folder.name)
    content, base = identity(str(folder.absolute())), fingerprint.generation(recipe)
    return Batch(requests, out, folder, recipe, model=Pinned(name, source, content=content, base=base))


def _listed(batch: Batch) -> list[Row]:
    """The rows of all good lines, without their messages, which may hold whole videos."""
    rows = (row for line in batch.lines() for row in batch.rows(line))
    return [{key: value for key, value in row.items() if key != "messages"} for row in rows]


def _refusal(
    line: BatchLine, rows: list[Row], *, there: Collection[str], failures: Mapping[str, str], left_out: Refusal
) -> Refusal | None:
    """Why a line has no answer; None if it has one."""
    if line.refusal is not None:
        return line.refusal
    reasons = [failures[row["file"]] for row in rows if row["file"] in failures]
    if reasons:
        return Refusal.of(reasons[0])
    return None if all(row["file"] in there for row in rows) else left_out


def _body(batch: Batch, line: BatchLine, *, rows: list[Row], files: Files) -> dict[str, Any]:
    """What the service answers. Memory holds the images of one line."""
    request = line.request
    assert request is not None
    settings = request.settings(batch.recipe.generate)
    drawn = [
        Drawn(
            _image(png, row["prompt"], output_format=request.output_format),
            row["seed"],
            answer=None if settings.states == "prompt" else answer_of(png),
            batch_size=1,
            seconds={},
        )
        for row, png in zip(rows, files.read_many([row["file"] for row in rows]), strict=True)
    ]
    size = f"{settings.width}x{settings.height}"
    return response_body(drawn, request=request, size=size, facts=batch.facts)


def _image(png: bytes, prompt: str, *, output_format: str) -> bytes:
    """A stored image in the format asked for."""
    if output_format == "png":
        return png
    with Image.open(io.BytesIO(png)) as image:
        return image_bytes(image, prompt=prompt, how=None, output_format=output_format)


def _write_line(handle: BinaryIO, value: Mapping[str, Any]) -> None:
    handle.write(json.dumps(value).encode() + b"\n")
