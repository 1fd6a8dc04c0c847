"""The pictures that a report shows: the first cases of each suite, beside what the student was shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from x2i_platform.evaluation.images import baseline_file, open_image, student_file
from x2i_platform.evaluation.report_data import Sheet, SheetRow
from x2i_platform.evaluation.results import Result
from x2i_platform.evaluation.tasks import Task
from x2i_platform.media.clips import Audio, Video
from x2i_platform.models.prompts import Prompt

SHEET_ROWS = 10
"""Cases of each suite that the report shows."""


def first_cases(tasks: Sequence[Task], results: Sequence[Result], *, out: Path, baseline: str) -> list[Sheet]:
    """The first cases of each suite, split and kind of states, with the picture that the student was shown, if any."""
    parts: dict[str, list[tuple[Task, Result]]] = {}
    for task, result in zip(tasks, results, strict=True):
        split = "" if task.split == "all" else f", {task.split.replace('_', ' ')}"
        parts.setdefault(f"{task.suite}{split}, {task.states} states", []).append((task, result))
    return [_sheet(name, part[:SHEET_ROWS], out=out, baseline=baseline) for name, part in parts.items()]


def _sheet(name: str, part: Sequence[tuple[Task, Result]], *, out: Path, baseline: str) -> Sheet:
    rows = []
    for task, result in part:
        shown = [] if isinstance(task.prompt, str) else [picture_of(task.prompt)]
        images = [*shown, open_image(out / baseline_file(task)), open_image(out / student_file(task))]
        marks = [*[None] * len(shown), result.baseline_right, result.right]
        rows.append(SheetRow(result.prompt, images, marks, gloss=f"{task.suite}: {task.english}"))
    columns = ["prompt"] if part and not isinstance(part[0][0].prompt, str) else []
    return Sheet(name, [*columns, baseline, "student"], rows)


def picture_of(prompt: Prompt) -> Image.Image:
    """A picture of a prompt's last medium: the picture, the last frame, or the wave of the sound. Blank without any."""
    if not prompt.media:
        return Image.new("RGB", (64, 64), "white")
    medium = prompt.media[-1]
    if isinstance(medium, Audio):
        return _wave(medium)
    return medium.frames[-1] if isinstance(medium, Video) else medium


def _wave(sound: Audio, *, side: int = 64) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    for column, part in enumerate(np.array_split(np.abs(sound.samples), side)):
        height = int(side / 2 * float(part.max(initial=0.0)))
        draw.line((column, side // 2 - height, column, side // 2 + height), fill="black")
    return image
