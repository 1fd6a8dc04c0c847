"""How close the student is to the teacher on captions it was never trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from x2i_platform.config import TrainConfig
from x2i_platform.distill.data import Batch, Place
from x2i_platform.distill.step import Student, distill_step
from x2i_platform.models.teacher import Teacher


@torch.no_grad()
def validation_losses(
    student: Student, *, teacher: Teacher, batches: Iterable[Batch], config: TrainConfig
) -> list[float]:
    """KL per token of each batch, in nats, averaged over taps and tokens."""
    losses = []
    for batch in batches:
        result = distill_step(student, teacher=teacher, batch=batch, config=config)
        losses.append(float(result.loss) / result.num_tokens)
    return losses


def shared_out(places: Sequence[Place], *, rank: int, world: int) -> tuple[list[Place], int]:
    """A worker's places, and how many of them count.

    All workers get the same number, as ZeRO-3's forward is collective; a repeated place at the end counts nothing.
    """
    rounds = -(-len(places) // world)
    indices = range(rank, rounds * world, world)
    return [places[i % len(places)] for i in indices], sum(i < len(places) for i in indices)
