"""requests (JSON Lines) → images, on Ray Data: actors that each hold a `Generator`.

An image's file name holds a hash of all that decides it, and appears only when the file is whole: running the same
command again makes what is missing.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from PIL import Image
from pydantic import TypeAdapter
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipelines.ray_cluster.session import Demand, bounded_restarts, ray_session, worker_error
from x2i_platform import fingerprint
from x2i_platform.config import GenerateConfig, Recipe
from x2i_platform.digests import digest
from x2i_platform.errors import ClusterError, X2IError, from_text, redacted, to_text
from x2i_platform.evaluation.contact_sheet import contact_sheet
from x2i_platform.features.files import Files
from x2i_platform.generation.content import Message
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.generation.loading import load_prompt
from x2i_platform.generation.provenance import png_bytes
from x2i_platform.generation.requests import ParsedLine, read_requests
from x2i_platform.models.devices import NOT_A_ROWS_FAULT, choose_device
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.prompts import Prompt
from x2i_platform.models.weights import identity
from x2i_platform.progress import Progress
from x2i_platform.recipes import override

INDEX_FILE, ERRORS_FILE, SHEET_FILE = "index.jsonl", "errors.jsonl", "contact_sheet.png"
SHEET_IMAGES = 64
MESSAGES = TypeAdapter(tuple[Message, ...])
NOT_LISTED = ("messages", "media")
"""Keys of a row that the index doesn't repeat as they are: they may hold whole files."""


@dataclass(frozen=True)
class GenerationSummary:
    """What a run did. `requests == images + failed`."""

    out: str
    requests: int
    images: int
    made: int
    failed: int
    seconds: float
    images_per_s: float


def run(
    folder: Path,
    *,
    requests: str,
    out: str,
    overrides: Sequence[str] = (),
    address: str | None = None,
    on_progress: Progress,
) -> GenerationSummary:
    """Make every image of a request file with the model in a folder. `overrides` go on top of the model's recipe."""
    started = time.monotonic()
    recipe = override(read_recipe(folder), overrides)
    lines = list(read_requests(requests))
    files = Files(out)
    model_digest = digest([identity(str(folder.absolute())), fingerprint.generation(recipe)])
    planned = [_planned(line, defaults=recipe.generate, model_digest=model_digest) for line in lines if line.request]
    present = set(files.names("images", suffix=".png"))
    missing = [row for row in planned if row["file"] not in present]
    errors = {line.line: line.error for line in lines if line.request is None}
    if missing:
        pool = recipe.run.generate
        with ray_session(address, demand=Demand(pool.actors * pool.num_cpus, pool.actors * pool.num_gpus)):
            errors |= _make(missing, folder=folder, recipe=recipe, out=out, on_progress=on_progress)
    done = [row for row in planned if row["line"] not in errors]
    _write_results(files, done, errors=errors, requests=requests)
    seconds = time.monotonic() - started
    made = sum(row["line"] not in errors for row in missing)
    return GenerationSummary(
        out=out,
        requests=len(lines),
        images=len(done),
        made=made,
        failed=len(errors),
        seconds=round(seconds, 2),
        images_per_s=round(made / seconds, 2),
    )


class GeneratorActor:
    """A `Generator` inside a Ray actor; writes what it makes and passes on which lines failed."""

    def __init__(self, folder: str, *, recipe: dict[str, Any], out: str) -> None:
        chosen = Recipe.model_validate(recipe)
        self.refusal, self.files, self.recipe = "", Files(out), chosen
        try:
            device = choose_device(chosen.run.generate.num_gpus)
            self.generator = Generator.load(Path(folder), recipe=chosen, device=device)
        except X2IError as error:
            self.refusal = to_text(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make a batch of images. An error that stops the run is passed on in the rows: Ray would send a traceback."""
        rows = [json.loads(row) for row in batch["row"]]
        errors = [""] * len(rows) if self.refusal else self._make(rows)
        return {"line": [row["line"] for row in rows], "error": errors, "refusal": [self.refusal] * len(rows)}

    def _prompt(self, row: dict[str, Any]) -> str | Prompt:
        messages = MESSAGES.validate_python(row["messages"])
        return load_prompt(messages, media=self.recipe.media) if messages else str(row["prompt"])

    def _make(self, rows: list[dict[str, Any]]) -> list[str]:
        """Make the images of some rows; returns why each failed, or "". A row that fails is tried alone, so that its
        neighbours don't fail with it.

        A fault that isn't a row's becomes the actor's refusal.
        """
        try:
            wanted = [ImageRequest(self._prompt(row), row["seed"], GenerateConfig(**row["settings"])) for row in rows]
            for row, made in zip(rows, self.generator.generate(wanted), strict=True):
                how = {"seed": row["seed"], "model": row["model"], **_media(row), **row["settings"]}
                self.files.publish(row["file"], png_bytes(made, prompt=row["prompt"], how=how))
        except NOT_A_ROWS_FAULT as error:
            self.refusal = to_text(error if isinstance(error, X2IError) else ClusterError(_reason(error)))
        except (X2IError, ValueError, RuntimeError) as error:  # a canvas too large for the GPU is a RuntimeError
            if len(rows) > 1:
                return [message for row in rows for message in self._make([row])]
            return [_reason(error)]
        return [""] * len(rows)


def _reason(error: Exception) -> str:
    return " ".join(f"{'' if isinstance(error, X2IError) else type(error).__name__} {error}".split())


def _media(row: dict[str, Any]) -> dict[str, Any]:
    """The SHA-256 of a prompt's media and their weights, where it has some."""
    return {"media": row["media"]} if row["media"] else {}


def _planned(line: ParsedLine, *, defaults: GenerateConfig, model_digest: str) -> dict[str, Any]:
    assert line.request is not None
    settings = line.request.settings(defaults)
    return {
        "line": line.line,
        "id": line.request.id,
        "prompt": line.request.prompt,
        "messages": [asdict(message) for message in line.messages],
        "media": [one for one in line.identity if one[0] not in ("text", "role")],
        "seed": line.seed,
        "settings": settings.model_dump(),
        "model": model_digest,
        "file": f"images/{line.file_name(settings=settings, model_digest=model_digest)}",
        "extra": line.request.model_extra,
    }


def _make(
    rows: list[dict[str, Any]], *, folder: Path, recipe: Recipe, out: str, on_progress: Progress
) -> dict[int, str]:
    """Generate the rows; returns the lines that failed, with the reason."""
    pool = recipe.run.generate
    # JSON text keeps each row's own keys: Arrow would merge them into one struct type.
    items = [{"row": json.dumps(row)} for row in rows]
    blocks = min(len(items), max(pool.actors, -(-len(items) // pool.batch_size)))
    dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        GeneratorActor,
        fn_constructor_args=(str(folder.absolute()),),
        fn_constructor_kwargs={
            "recipe": recipe.model_dump(mode="json"),
            "out": Files(out).address,
        },
        batch_size=pool.batch_size,
        compute=ActorPoolStrategy(size=pool.actors),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        ray_remote_args_fn=bounded_restarts,
    )
    failed = {}
    try:
        for done, result in enumerate(dataset.iter_rows(), start=1):
            if result["refusal"]:
                raise from_text(str(result["refusal"]))
            if result["error"]:
                failed[int(result["line"])] = str(result["error"])
            on_progress(done, len(rows))
    except RayError as error:
        raise worker_error(error) from None
    return failed


def _write_results(files: Files, rows: list[dict[str, Any]], *, errors: dict[int, str | None], requests: str) -> None:
    # The index tells which media made an image; their bytes, which a data URL holds, aren't repeated.
    listed = [{**{key: value for key, value in row.items() if key not in NOT_LISTED}, **_media(row)} for row in rows]
    files.publish(INDEX_FILE, _json_lines(_with_answers(listed, files=files)))
    refused = [{"source": redacted(requests), "line": line, "error": reason} for line, reason in sorted(errors.items())]
    files.publish(ERRORS_FILE, _json_lines(refused))
    if rows:
        shown = [(row["prompt"], [Image.open(io.BytesIO(files.read(row["file"])))]) for row in rows[:SHEET_IMAGES]]
        buffer = io.BytesIO()
        contact_sheet(shown, columns=["image"], pairs_across=4).save(buffer, format="png")
        files.publish(SHEET_FILE, buffer.getvalue())


def _with_answers(rows: list[dict[str, Any]], *, files: Files) -> list[dict[str, Any]]:
    """The rows with the MLLM's answers, which the images hold; those of an earlier index aren't read again."""
    earlier = files.read(INDEX_FILE).decode().splitlines() if INDEX_FILE in files.names("", suffix=".jsonl") else []
    known = {row["file"]: row.get("answer") for row in map(json.loads, earlier)}
    for row in rows:
        if row["settings"]["states"] != "prompt":
            row["answer"] = known.get(row["file"]) or _answer_of(files.read(row["file"]))
    return rows


def _answer_of(png: bytes) -> str:
    with Image.open(io.BytesIO(png)) as image:
        return str(image.info.get("answer", ""))


def _json_lines(rows: Sequence[dict[str, Any]]) -> bytes:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode(errors="backslashreplace")  # half a surrogate pair goes back to the escape it came in as
