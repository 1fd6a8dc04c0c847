"""The images of an evaluation: the student's and its baseline's, drawn in batches, kept as files beside the report.

Invariant: a file that is there is whole; the baseline's image of some words and a seed is drawn once, however many
languages say the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from x2i_platform.config import GenerateConfig, digest
from x2i_platform.errors import ConfigError, InputError, StoreError
from x2i_platform.evaluation.layouts import save_dpg, save_geneval
from x2i_platform.evaluation.metrics import psnr, ssim
from x2i_platform.evaluation.options import Layout
from x2i_platform.evaluation.results import Result
from x2i_platform.evaluation.tasks import Task
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.models.text_encoders import TextEncoders

FOLDER = "images"
GENEVAL_KEYS = ("tag", "include", "prompt")
"""Without them GenEval's scorer marks everything right."""


class Baseline:
    """What the student is compared with: the teacher's own text encoders on the same DiT, or another model."""

    def __init__(self, generator: Generator, *, other: Path | None, device: str) -> None:
        self._images = generator.images
        self._settings = generator.recipe.generate
        self._other = Generator.load(other, device=device) if other else None
        self.encoders = None if other else TextEncoders.load(generator.recipe.teacher, device=device)

    def draw(self, tasks: Sequence[Task]) -> list[Image.Image]:
        """One image a task, of its English words."""
        if self.encoders is None:
            assert self._other is not None
            # Its own number of steps and guidance; but only images of one size can be compared.
            size = {"width": self._settings.width, "height": self._settings.height}
            settings = self._other.recipe.generate.model_copy(update=size)
            return self._other.generate([ImageRequest(task.english, task.seed, settings) for task in tasks])
        conditioning = self.encoders.encode([task.english for task in tasks])
        return self._images.generate(
            conditioning.prompt_embeds_BTE,
            pooled_BP=conditioning.pooled_BP,
            seeds=[task.seed for task in tasks],
            settings=self._settings,
        )


def draw(tasks: Sequence[Task], *, generator: Generator, baseline: Baseline, out: Path) -> Iterator[list[Result]]:
    """The results of each batch, its images saved."""
    size, defaults = generator.recipe.run.generate.batch_size, generator.recipe.generate
    for start in range(0, len(tasks), size):
        batch = tasks[start : start + size]
        began = time.monotonic()
        settings = [defaults.model_copy(update={"states": task.states}) for task in batch]
        requests = [ImageRequest(task.prompt, task.seed, each) for task, each in zip(batch, settings, strict=True)]
        drawn = generator.generate(requests)
        seconds = (time.monotonic() - began) / len(batch)
        goals = _baseline_images(batch, baseline=baseline, out=out)
        results = []
        for task, image, goal in zip(batch, drawn, goals, strict=True):
            _save(image, out / student_file(task))
            results.append(_result(task, image=image, goal=goal, seconds=seconds))
        yield results


def _baseline_images(tasks: Sequence[Task], *, baseline: Baseline, out: Path) -> list[Image.Image]:
    """Each is drawn once, however many languages tell its scene."""
    missing = {baseline_file(task): task for task in tasks if not (out / baseline_file(task)).is_file()}
    if missing:
        for file, image in zip(missing, baseline.draw(list(missing.values())), strict=True):
            _save(image, out / file)
    return [open_image(out / baseline_file(task)) for task in tasks]


def student_file(task: Task) -> str:
    """Where the student's image of a task lies, relative to the report."""
    return f"{FOLDER}/student/{task.key}.png"


def baseline_file(task: Task) -> str:
    """Where the baseline's image lies: tasks of the same words and seed share one."""
    return f"{FOLDER}/baseline/{digest([task.english, task.seed])[:16]}.png"


def _result(task: Task, *, image: Image.Image, goal: Image.Image, seconds: float) -> Result:
    mine, theirs = (task.judge(image), task.judge(goal)) if task.judge else (None, None)
    return Result(
        key=task.key,
        suite=task.suite,
        split=task.split,
        states=task.states,
        category=task.category,
        prompt=task.prompt if isinstance(task.prompt, str) else task.english,
        seed=task.seed,
        right=mine.right if mine else None,
        reason=mine.reason if mine else "",
        baseline_right=theirs.right if theirs else None,
        baseline_reason=theirs.reason if theirs else "",
        psnr=psnr(image, goal),
        ssim=ssim(image, goal),
        seconds=seconds,
        group=task.group,
        composition=task.composition,
    )


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    image.save(aside, format="png")
    aside.replace(path)


def open_image(path: Path) -> Image.Image:
    """An image as it was saved. Raises StoreError where somebody took it away."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise StoreError(
            f"image '{path}' of a case that is done can't be read ({error.strerror or error}); "
            "delete results.jsonl there to have all drawn again"
        ) from None


def forget_baseline(out: Path) -> None:
    """Delete the baseline's images: without results nothing says of which evaluation they are."""
    for path in (out / FOLDER / "baseline").glob("*.png"):
        path.unlink()


def check_layout(tasks: Sequence[Task], *, layout: Layout, settings: GenerateConfig) -> None:
    """Refuse before anything is drawn what `lay_out` would refuse after.

    Raises ConfigError for images of another shape than the scorer's, InputError for prompts that it can't judge.
    """
    if layout == "dpg":
        if settings.width != settings.height:
            raise ConfigError(
                f"layout 'dpg' takes square images, not generate.width x generate.height = "
                f"{settings.width} x {settings.height}"
            )
        return
    for task in tasks:
        if missing := [name for name in GENEVAL_KEYS if not task.metadata.get(name)]:
            raise InputError(
                f"layout 'geneval': prompt {task.number + 1} has no {', '.join(map(repr, missing))}; "
                "use GenEval's own file"
            )


def lay_out(tasks: Sequence[Task], *, layout: Layout, out: Path) -> None:
    """Images of a prompt file in folders for external scorers: `LAYOUT/student-STATES` and `LAYOUT/baseline`."""
    grouped: dict[tuple[str, int], list[Task]] = {}
    for task in tasks:
        grouped.setdefault((task.states, task.number), []).append(task)
    for (states, number), group in grouped.items():
        for side, name in ((f"student-{states}", student_file), ("baseline", baseline_file)):
            images = [open_image(out / name(task)) for task in group]
            target, metadata = out / layout / side, group[0].metadata
            if layout == "geneval":
                save_geneval(target, images, index=number, metadata=metadata)
            else:
                save_dpg(target, images, item_id=str(metadata.get("item_id", number)))
