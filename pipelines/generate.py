"""requests (JSON Lines or Parquet) → images, an index, a contact sheet and a list of what failed.

An image's file name holds a hash of all that decides it, and appears only when the file is whole: running the same
command again makes what is missing. Requests are read twice, once to plan and once for what is missing, because their
prompts may hold whole pictures and videos.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from pipelines import batches
from pipelines.generator_pool import Row, Work, demand_of, make
from pipelines.image_folder import GenerationSummary, json_lines, present, write_index, write_sheet
from pipelines.ray_cluster.session import ray_session
from x2i_platform import fingerprint
from x2i_platform.config import Recipe
from x2i_platform.digests import digest
from x2i_platform.errors import redacted
from x2i_platform.features.files import Files
from x2i_platform.generation.request_tables import is_table
from x2i_platform.generation.requests import ParsedLine, read_requests
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.weights import identity
from x2i_platform.progress import Progress
from x2i_platform.recipes import override
from x2i_platform.serving.batch_lines import is_batch

ERRORS_FILE = "errors.jsonl"


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
    """Make every image of a request file with the model in a folder. `overrides` go on top of the model's recipe.

    A file in OpenAI's batch format is answered in that format; `called` is the model's name and version in it.
    """
    if not is_table(requests) and is_batch(requests):
        return batches.run(
            folder,
            requests=requests,
            out=out,
            overrides=overrides,
            address=address,
            called=called,
            on_progress=on_progress,
        )
    started = time.monotonic()
    recipe = override(read_recipe(folder), overrides)
    model_digest = digest([identity(str(folder.absolute())), fingerprint.generation(recipe)])
    files = Files(out)
    rows, errors = _plan(requests, recipe=recipe, model_digest=model_digest)
    there = present(files)
    missing = {row["file"]: row["line"] for row in rows if row["file"] not in there}
    if missing:
        work = Work(_reader(requests, missing.keys(), recipe=recipe, model_digest=model_digest), len(missing))
        with ray_session(address, demand=demand_of(recipe)):
            for done, outcome in enumerate(make(work, folder=folder, recipe=recipe, out=out), start=1):
                if outcome.error:
                    errors[missing[outcome.file]] = outcome.error
                on_progress(done, len(missing))
    done_rows = [row for row in rows if row["line"] not in errors]
    _write_results(files, done_rows, errors=errors, requests=requests)
    seconds = time.monotonic() - started
    made = sum(line not in errors for line in missing.values())
    return GenerationSummary(
        out=out,
        requests=len(done_rows) + len(errors),
        images=len(done_rows),
        made=made,
        failed=len(errors),
        seconds=round(seconds, 2),
        images_per_s=round(made / seconds, 2),
    )


def _plan(requests: str, *, recipe: Recipe, model_digest: str) -> tuple[list[Row], dict[int, str]]:
    """The rows of good lines, without their messages, and why each bad line is one."""
    rows, errors = [], {}
    for line in read_requests(requests):
        if line.request is None:
            errors[line.line] = str(line.error)
        else:
            row = _planned(line, recipe=recipe, model_digest=model_digest)
            rows.append({key: value for key, value in row.items() if key != "messages"})
    return rows, errors


def _reader(requests: str, wanted: Container[str], *, recipe: Recipe, model_digest: str) -> Callable[[], Iterator[Row]]:
    """What reads the rows of some files, whole."""

    def read() -> Iterator[Row]:
        for line in read_requests(requests):
            if line.request is not None:
                row = _planned(line, recipe=recipe, model_digest=model_digest)
                if row["file"] in wanted:
                    yield row

    return read


def _planned(line: ParsedLine, *, recipe: Recipe, model_digest: str) -> Row:
    assert line.request is not None
    settings = line.request.settings(recipe.generate)
    return {
        "line": line.line,
        "id": line.request.id,
        "prompt": line.request.prompt,
        "messages": [asdict(message) for message in line.messages],
        "media": [one for one in line.identity if one[0] not in ("text", "role")],
        "seed": line.seed,
        "settings": settings.model_dump(),
        "model": model_digest,
        "facts": {"model": model_digest},
        "file": f"images/{line.file_name(settings=settings, model_digest=model_digest)}",
        "extra": line.request.model_extra,
    }


def _write_results(files: Files, rows: list[Row], *, errors: dict[int, str], requests: str) -> None:
    write_index(files, rows)
    refused = [{"source": redacted(requests), "line": line, "error": reason} for line, reason in sorted(errors.items())]
    files.publish(ERRORS_FILE, json_lines(refused))
    write_sheet(files, rows)
