"""What an evaluation draws: the suites of the miniature world, whose judge is exact, or a file of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from x2i_platform.config import States
from x2i_platform.digests import digest
from x2i_platform.evaluation import prompt_sets
from x2i_platform.evaluation.options import Split
from x2i_platform.media.clips import Video
from x2i_platform.mini.scenes import Scene
from x2i_platform.mini.suites import Case, cases
from x2i_platform.models.prompts import Part, Prompt, Turn


@dataclass(frozen=True)
class Task:
    """One image by the student and one by its baseline, from the same noise."""

    key: str
    suite: str
    split: Split
    states: States
    category: str
    english: str
    """What the baseline is told."""
    prompt: str | Prompt
    """What the student is told or shown."""
    seed: int
    scene: Scene | None = None
    """What the image must show; None where nothing can judge it."""
    composition: str = ""
    group: str = ""
    """As a result has them."""
    number: int = 0
    """Place of its prompt in a file."""
    metadata: dict[str, Any] = field(default_factory=dict)


def suite_tasks(names: Sequence[str], *, count: int, splits: Sequence[Split], states: Sequence[States]) -> list[Task]:
    """`count` cases of each suite and split, for each kind of states."""
    return [
        _suite_task(case, states=kind)
        for name in names
        for split in splits
        for kind in states
        for case in islice(cases(name, held_out=split == "held_out"), count)
    ]


def file_tasks(path: str, *, images: int, states: Sequence[States]) -> list[Task]:
    """`images` of each prompt of a file (GenEval's JSON Lines, plain JSON Lines or text), from seeds 0, 1, …

    Nothing here can judge them: what is reported is their distance to the baseline's images. A digest of the words is
    part of the key, so that a changed line is drawn anew.
    """
    return [
        Task(
            key=f"prompts-{number:05d}-{digest([case.prompt, case.category])[:8]}-{seed}-{kind}",
            suite="prompts",
            split="all",
            states=kind,
            category=case.category,
            english=case.prompt,
            prompt=case.prompt,
            seed=seed,
            number=number,
            metadata=case.metadata,
        )
        for kind in states
        for number, case in enumerate(prompt_sets.read(path))
        for seed in range(images)
    ]


def _suite_task(case: Case, *, states: States) -> Task:
    return Task(
        key=f"{case.key}-{states}",
        suite=case.suite,
        split="held_out" if case.held_out else "seen",
        states=states,
        category=case.category,
        english=case.english,
        prompt=_prompt(case),
        seed=case.seed,
        scene=case.scene,
        composition=case.composition or "",
        group=case.group,
    )


def _prompt(case: Case) -> str | Prompt:
    if case.text is not None:
        return case.text
    if case.turns:
        return Prompt(tuple(Turn(speaker, parts) for speaker, parts in case.turns))
    if case.sound is not None:
        return Prompt.of(case.sound)
    shown: Part = case.images[0] if len(case.images) == 1 else Video(case.images)
    return Prompt.of(shown)
