"""Makes short videos that end with a picture: its things appear one after the other, or slide in together.

Invariant: in every frame, visible things are arranged as in the picture. So a video of a scene that is allowed in
training shows no held-out combination.
"""

from __future__ import annotations

import random
from dataclasses import replace

from PIL import Image

from x2i_platform.mini.drawing import SIDE, Picture, draw_things

FRAMES = 4
STILL = 2
"""Number of last frames, which show the whole picture at rest."""


def frames(final: Picture, *, seed: int) -> list[Image.Image]:
    """Return four frames of 64 x 64 pixels, a second apart. The seed decides the movement."""
    draw = random.Random(f"video {final} {seed}")
    before = (
        _appearing(final, draw=draw) if len(final.placed) > 1 and draw.random() < 0.5 else _sliding(final, draw=draw)
    )
    return [*before, *[final.draw()] * STILL]


def _appearing(final: Picture, *, draw: random.Random) -> list[Image.Image]:
    """Draw a growing number of the things, each in its final place."""
    order = draw.sample(final.placed, len(final.placed))
    counts = sorted(draw.choices(range(1, len(order)), k=FRAMES - STILL))
    return [draw_things(tuple(order[:count])) for count in counts]


def _sliding(final: Picture, *, draw: random.Random) -> list[Image.Image]:
    """Draw the whole picture, moving in from one of four sides."""
    x, y = draw.choice([(-1, 0), (1, 0), (0, -1), (0, 1)])
    shifts = sorted((draw.uniform(0.1, 0.8) * SIDE for _ in range(FRAMES - STILL)), reverse=True)
    return [draw_things(tuple(replace(p, x=p.x + x * s, y=p.y + y * s) for p in final.placed)) for s in shifts]
