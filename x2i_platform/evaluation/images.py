"""The images of an evaluation as files beside the report, and their layouts for external scorers.

Invariant: a file that is there is whole; tasks of the same words and seed share one image of the baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from x2i_platform.config import GenerateConfig
from x2i_platform.digests import digest
from x2i_platform.errors import ConfigError, InputError, StoreError
from x2i_platform.evaluation.layouts import save_dpg, save_geneval
from x2i_platform.evaluation.options import Layout
from x2i_platform.evaluation.tasks import Task

FOLDER = "images"
GENEVAL_KEYS = ("tag", "include", "prompt")
"""Without them GenEval's scorer marks everything right."""


def student_file(task: Task) -> str:
    """Where the student's image of a task lies, relative to the report."""
    return f"{FOLDER}/student/{task.key}.png"


def baseline_file(task: Task) -> str:
    """Where the baseline's image lies: tasks of the same words and seed share one."""
    return f"{FOLDER}/baseline/{digest([task.english, task.seed])[:16]}.png"


def open_image(path: Path) -> Image.Image:
    """An image as it was saved. Raises StoreError if it is gone."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise StoreError(
            f"image '{path}' of a case that is done can't be read ({error.strerror or error}); "
            "delete results.jsonl there to have all drawn again"
        ) from None


def forget_baseline(out: Path) -> None:
    """Delete the baseline's images: without results it isn't known which evaluation they belong to."""
    for path in (out / FOLDER / "baseline").glob("*.png"):
        path.unlink()


def check_layout(tasks: Sequence[Task], *, layout: Layout, settings: GenerateConfig) -> None:
    """Check before drawing what `lay_out` needs.

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
    """Write the images of a prompt file for external scorers: `LAYOUT/student-STATES` and `LAYOUT/baseline`."""
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
