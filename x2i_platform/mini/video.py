"""Pictures become short videos that end with the picture: its things appear one after another, or slide in together.

Invariant: no frame shows two things in another arrangement than the picture does, so a video of a scene that training
may see shows no held-out combination.
"""

from __future__ import annotations

import random
from dataclasses import replace

from PIL import Image

from x2i_platform.mini.drawing import SIDE, Picture, draw_things

FRAMES = 4
STILL = 2
"""Number of last frames that show the whole picture at rest."""


def frames(shown: Picture, *, seed: int) -> list[Image.Image]:
    """Four frames of 64 x 64 pixels, a second apart; the seed decides what moves."""
    draw = random.Random(f"video {shown} {seed}")
    before = _coming(shown, draw=draw) if len(shown.placed) > 1 and draw.random() < 0.5 else _sliding(shown, draw=draw)
    return [*before, *[shown.draw()] * STILL]


def _coming(shown: Picture, *, draw: random.Random) -> list[Image.Image]:
    """Frames in which things appear one by one, each at its final place."""
    order = draw.sample(shown.placed, len(shown.placed))
    counts = sorted(draw.choices(range(1, len(order)), k=FRAMES - STILL))
    return [draw_things(tuple(order[:count])) for count in counts]


def _sliding(shown: Picture, *, draw: random.Random) -> list[Image.Image]:
    """Frames in which the whole picture slides in from one of four sides."""
    x, y = draw.choice([(-1, 0), (1, 0), (0, -1), (0, 1)])
    shifts = sorted((draw.uniform(0.1, 0.8) * SIDE for _ in range(FRAMES - STILL)), reverse=True)
    return [draw_things(tuple(replace(p, x=p.x + x * s, y=p.y + y * s) for p in shown.placed)) for s in shifts]
