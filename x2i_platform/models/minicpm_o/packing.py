"""Runs pieces of different sizes through a module without padding: equal sizes together, so many at a time.

Invariant: a piece gets the same values whatever the other pieces are, up to rounding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def run_alike(pieces: Sequence[Tensor], run: Callable[[Tensor], Tensor], *, limit: int) -> list[Tensor]:
    """Return `run`'s row for every piece, in order. `run` gets up to `limit` pieces of one shape, stacked."""
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for place, piece in enumerate(pieces):
        alike[piece.shape].append(place)
    done: dict[int, Tensor] = {}
    for places in alike.values():
        for start in range(0, len(places), limit):
            some = places[start : start + limit]
            done.update(zip(some, run(torch.stack([pieces[place] for place in some])), strict=True))
    return [done[place] for place in range(len(pieces))]
