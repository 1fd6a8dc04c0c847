"""How far the student's conditioning is from the teacher's, as the DiT's attention sees it."""

from __future__ import annotations

from collections.abc import Sequence

from x2i_platform.config import States
from x2i_platform.evaluation.images import Baseline
from x2i_platform.evaluation.options import STATES
from x2i_platform.evaluation.tasks import Task
from x2i_platform.generation.generator import Generator
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.training.validation import attention_distance

KL_CAPTIONS = 64


def attention_distances(generator: Generator, *, baseline: Baseline, tasks: Sequence[Task]) -> dict[str, float]:
    """KL per token between the attention outputs under teacher and student, over the first English captions."""
    assert baseline.encoders is not None
    english = [task for task in tasks if task.prompt == task.english]
    found = {}
    for kind in STATES:
        captions = list(dict.fromkeys(task.english for task in english if task.states == kind))[:KL_CAPTIONS]
        if captions:
            distance = _distance(captions, generator=generator, encoders=baseline.encoders, states=kind)
            found[f"{kind} states of {len(captions)} English captions"] = distance
    return found


def _distance(captions: Sequence[str], *, generator: Generator, encoders: TextEncoders, states: States) -> float:
    recipe, size = generator.recipe, generator.recipe.run.generate.batch_size
    teacher = generator.images.teacher(recipe.teacher)
    total = 0.0
    for start in range(0, len(captions), size):
        batch = captions[start : start + size]
        seeds = range(start, start + len(batch))
        goal, mine = encoders.encode(batch), generator.condition(batch, states=states)
        total += len(batch) * attention_distance(mine, goal=goal, teacher=teacher, seeds=seeds, config=recipe.train)
    return total / len(captions)
