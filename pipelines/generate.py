"""requests (JSON Lines or Parquet) → images, an index, a contact sheet and a list of what failed.

An image's file name holds a hash of all that decides it, and appears only when the file is whole: running the same
command again makes what is missing. Requests are read twice, once to plan and once for what is missing, because their
prompts may hold whole pictures and videos.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from pipelines import batches
from pipelines.generator_pool import Row, Work, demand_of, make
from pipelines.image_folder import IMAGES, GenerationSummary, json_lines, present, write_index, write_sheet
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
        flow = partial(batches.run, folder, requests=requests, out=out, overrides=overrides)
        return flow(address=address, called=called, on_progress=on_progress)
    started = time.monotonic()
    recipe = override(read_recipe(folder), overrides)
    asked = Requests(requests, recipe, digest([identity(str(folder.absolute())), fingerprint.generation(recipe)]))
    files = Files(out)
    rows, errors = asked.plan()
    num_requests = len(rows) + len(errors)
    there = present(files)
    missing = {row["file"]: row["line"] for row in rows if row["file"] not in there}
    if missing:
        work = Work(lambda: asked.rows(missing), len(missing))
        with ray_session(address, demand=demand_of(recipe)):
            for done, outcome in enumerate(make(work, folder=folder, recipe=recipe, out=out), start=1):
                errors |= {missing[outcome.file]: outcome.error} if outcome.error else {}
                on_progress(done, len(missing))
    done_rows = [row for row in rows if row["line"] not in errors]
    _write_results(files, done_rows, errors=errors, requests=requests)
    made = sum(line not in errors for line in missing.values())
    return GenerationSummary.of(
        out, requests=num_requests, images=len(done_rows), made=made, failed=len(errors), started=started
    )


@dataclass(frozen=True)
class Requests:
    """A request file and what makes its images."""

    path: str
    recipe: Recipe
    model_digest: str

    def plan(self) -> tuple[list[Row], dict[int, str]]:
        """The rows of good lines, without their messages, and why each bad line is one."""
        rows, errors = [], {}
        for line in read_requests(self.path):
            if line.request is None:
                errors[line.line] = str(line.error)
            else:
                rows.append({key: value for key, value in self._row(line).items() if key != "messages"})
        return rows, errors

    def rows(self, wanted: Container[str]) -> Iterator[Row]:
        """The rows of some files, whole."""
        rows = (self._row(line) for line in read_requests(self.path) if line.request is not None)
        return (row for row in rows if row["file"] in wanted)

    def _row(self, line: ParsedLine) -> Row:
        assert line.request is not None
        settings = line.request.settings(self.recipe.generate)
        return {
            "line": line.line,
            "id": line.request.id,
            "prompt": line.request.prompt,
            "messages": [asdict(message) for message in line.messages],
            "media": [one for one in line.identity if one[0] not in ("text", "role")],
            "seed": line.seed,
            "settings": settings.model_dump(),
            "model": self.model_digest,
            "facts": {"model": self.model_digest},
            "file": f"{IMAGES}/{line.file_name(settings=settings, model_digest=self.model_digest)}",
            "extra": line.request.model_extra,
        }


def _write_results(files: Files, rows: list[Row], *, errors: dict[int, str], requests: str) -> None:
    write_index(files, rows)
    refused = [{"source": redacted(requests), "line": line, "error": reason} for line, reason in sorted(errors.items())]
    files.publish(ERRORS_FILE, json_lines(refused))
    write_sheet(files, rows)
