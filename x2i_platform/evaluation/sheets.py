"""The pictures that a report shows: the first cases of each suite, beside what the student was shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from x2i_platform.evaluation.images import baseline_file, open_image, student_file
from x2i_platform.evaluation.report_data import Sheet, SheetRow
from x2i_platform.evaluation.results import Result
from x2i_platform.evaluation.tasks import Task
from x2i_platform.media.clips import Video
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
        shown = [] if isinstance(task.prompt, str) else [last_frame(task.prompt)]
        images = [*shown, open_image(out / baseline_file(task)), open_image(out / student_file(task))]
        marks = [*[None] * len(shown), result.baseline_right, result.right]
        rows.append(SheetRow(result.prompt, images, marks, gloss=f"{task.suite}: {task.english}"))
    columns = ["prompt"] if part and not isinstance(part[0][0].prompt, str) else []
    return Sheet(name, [*columns, baseline, "student"], rows)


def last_frame(prompt: Prompt) -> Image.Image:
    """The last picture of a prompt, or the last frame of its last video."""
    part = prompt.media[-1]
    return part.frames[-1] if isinstance(part, Video) else part
