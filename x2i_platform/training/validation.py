"""Compares student and teacher on captions that were never trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from x2i_platform.config import TrainConfig
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.taps import Tap, attention_taps
from x2i_platform.models.teacher import Teacher
from x2i_platform.training.data import Place
from x2i_platform.training.losses import attention_kl


@torch.no_grad()
def attention_distance(
    student: Conditioning, *, goal: Conditioning, teacher: Teacher, seeds: Sequence[int], config: TrainConfig
) -> float:
    """Return the KL per token, in nats, between the DiT's attention outputs under two conditionings, over all taps.

    If the student and the teacher have different numbers of text tokens, only image tokens are compared.
    """
    canvas_BNC = teacher.canvas(seeds, prompt_embeds_BTE=goal.prompt_embeds_BTE, pooled_BP=goal.pooled_BP)
    # Attention outputs under both conditionings, on the same canvas, divided into text and image tokens.
    taken = []
    for prompt_embeds_BTE, pooled_BP in (student, (goal.prompt_embeds_BTE, goal.pooled_BP)):
        num_text = prompt_embeds_BTE.shape[1]
        with attention_taps(teacher.dit, teacher.tap_names) as outputs:
            teacher.forward(
                prompt_embeds_BTE,
                pooled_BP=pooled_BP,
                latents_BNC=canvas_BNC,
                sigma_B=teacher.sigmas(seeds),
            )
        taken.append({name: Tap.named(name).split(output, num_text=num_text) for name, output in outputs.items()})
    mine, theirs = taken
    pairs = [(mine[tap][stream], theirs[tap][stream]) for tap in mine for stream in mine[tap]]
    # Streams of unequal length can't be compared token by token.
    pairs = [(left, right) for left, right in pairs if left.shape == right.shape]
    loss = attention_kl(
        *map(list, zip(*pairs, strict=True)), temperature=config.temperature, direction=config.direction
    )
    return float(loss) / sum(left.shape[1] for left, _ in pairs)


def shared_out(places: Sequence[Place], *, rank: int, world: int) -> tuple[list[Place], int]:
    """Return a worker's places, and how many of them count.

    All workers get the same number of places, because ZeRO-3's forward is collective. Places repeated at the end don't
    count.
    """
    rounds = -(-len(places) // world)
    indices = range(rank, rounds * world, world)
    return [places[i % len(places)] for i in indices], sum(i < len(places) for i in indices)
