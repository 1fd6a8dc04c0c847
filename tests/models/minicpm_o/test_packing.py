from __future__ import annotations

import torch
from torch import Tensor

from x2i_platform.models.minicpm_o.packing import run_alike


def test_pieces_of_one_size_run_together_and_come_back_in_order() -> None:
    lengths = [2, 3, 2, 2, 3, 1]
    pieces = [torch.full((length, 4), float(place)) for place, length in enumerate(lengths)]
    seen: list[tuple[int, ...]] = []

    def run(stacked: Tensor) -> Tensor:
        seen.append(tuple(stacked.shape))
        return stacked.sum(dim=1)

    done = run_alike(pieces, run, limit=2)
    assert seen == [(2, 2, 4), (1, 2, 4), (2, 3, 4), (1, 1, 4)]
    assert [float(row[0]) for row in done] == [place * length for place, length in enumerate(lengths)]
