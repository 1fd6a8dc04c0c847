"""rows → image files, on Ray Data: actors that each hold a `Generator`. What `generate` and batches share.

A row is a dict of JSON values: `prompt` or `messages`, `media`, `seed`, `settings`, `facts` for the image's text
chunks, and the `file` below the folder. A file appears only when it is whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import ray
from pydantic import TypeAdapter
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipelines.ray_cluster.session import Demand, bounded_restarts, worker_error
from x2i_platform.config import GenerateConfig, Recipe
from x2i_platform.errors import ClusterError, InputError, X2IError, from_text, to_text
from x2i_platform.features.files import Files
from x2i_platform.generation.content import Message
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.generation.loading import load_prompt
from x2i_platform.generation.provenance import png_bytes
from x2i_platform.models.devices import NOT_A_ROWS_FAULT, choose_device
from x2i_platform.models.prompts import Prompt

Row = dict[str, Any]
MESSAGES = TypeAdapter(tuple[Message, ...])


@dataclass(frozen=True)
class Outcome:
    """An image file that is there now, or why it couldn't be made."""

    file: str
    error: str = ""


@dataclass(frozen=True)
class Work:
    """Rows to make. `rows` reads them anew at each call: they may hold whole videos, so nobody keeps them all."""

    rows: Callable[[], Iterator[Row]]
    count: int


def demand_of(recipe: Recipe) -> Demand:
    """What the pool needs at once."""
    pool = recipe.run.generate
    return Demand(pool.actors * pool.num_cpus, pool.actors * pool.num_gpus)


def media_of(row: Row) -> dict[str, Any]:
    """The SHA-256 of a prompt's media and their weights, where it has some."""
    return {"media": row["media"]} if row["media"] else {}


class GeneratorActor:
    """A `Generator` inside a Ray actor; writes what it makes and passes on what failed."""

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
        return {"file": [row["file"] for row in rows], "error": errors, "refusal": [self.refusal] * len(rows)}

    def _prompt(self, row: Row) -> str | Prompt:
        messages = MESSAGES.validate_python(row["messages"])
        return load_prompt(messages, media=self.recipe.media) if messages else str(row["prompt"])

    def _make(self, rows: list[Row]) -> list[str]:
        """Make the images of some rows; returns why each failed, or "". A row that fails is tried alone, so that its
        neighbours don't fail with it.

        A fault that isn't a row's becomes the actor's refusal.
        """
        try:
            wanted = [ImageRequest(self._prompt(row), row["seed"], GenerateConfig(**row["settings"])) for row in rows]
            for row, made in zip(rows, self.generator.generate(wanted), strict=True):
                how = {"seed": row["seed"], **row["facts"], **media_of(row), **row["settings"]}
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


class _Items(Sequence[dict[str, str]]):
    """Rows for Ray Data, which takes them one after the other and puts them away block by block."""

    def __init__(self, work: Work) -> None:
        self._work, self._rows, self._next = work, work.rows(), 0

    def __len__(self) -> int:
        return self._work.count

    @overload
    def __getitem__(self, place: int) -> dict[str, str]: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[dict[str, str]]: ...
    def __getitem__(self, place: int | slice) -> dict[str, str] | Sequence[dict[str, str]]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        if place < self._next:
            self._rows, self._next = self._work.rows(), 0
        for row in self._rows:
            self._next += 1
            if self._next > place:
                # JSON text keeps each row's own keys: Arrow would merge them into one struct type.
                return {"row": json.dumps(row)}
        raise InputError("the requests changed while they were read; run the command again")


def make(work: Work, *, folder: Path, recipe: Recipe, out: str) -> Iterator[Outcome]:
    """Generate the rows in a Ray session; yields each outcome as it comes.

    Raises what the models raise if they can't be loaded, ClusterError if workers die too often.
    """
    pool = recipe.run.generate
    blocks = min(work.count, max(pool.actors, -(-work.count // pool.batch_size)))
    dataset = ray.data.from_items(_Items(work), override_num_blocks=blocks).map_batches(
        GeneratorActor,
        fn_constructor_args=(str(folder.absolute()),),
        fn_constructor_kwargs={"recipe": recipe.model_dump(mode="json"), "out": Files(out).address},
        batch_size=pool.batch_size,
        compute=ActorPoolStrategy(size=pool.actors),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        ray_remote_args_fn=bounded_restarts,
    )
    try:
        for result in dataset.iter_rows():
            if result["refusal"]:
                raise from_text(str(result["refusal"]))
            yield Outcome(str(result["file"]), str(result["error"]))
    except RayError as error:
        raise worker_error(error) from None
