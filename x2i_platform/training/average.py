"""The moving average of AlignNet's weights. If a recipe asks for one, it is what is validated and shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim.swa_utils import get_ema_multi_avg_fn

from x2i_platform.config import TrainConfig
from x2i_platform.models.alignnet import AlignNet
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.training.strategy import Autocast


class MovingAverage:
    """Whole float32 weights by name, the same on every worker; empty until the first update.

    It can be called like AlignNet, without DDP or ZeRO, because each worker has all of it.
    """

    def __init__(self, alignnet: AlignNet, *, config: TrainConfig) -> None:
        with torch.device("meta"):  # only the structure is needed: each call passes the weights
            self._shape = Autocast(AlignNet(alignnet.config, dims=alignnet.dims), config=config)
        self._lerp = get_ema_multi_avg_fn(config.ema)  # type: ignore[no-untyped-call]
        self.weights: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Move the average towards these weights. The first call copies them."""
        if not self.weights:
            self.weights = {name: weight.clone() for name, weight in weights.items()}
            return
        self._lerp(list(self.weights.values()), [weights[name] for name in self.weights], 0)

    def __call__(self, states_BCSH: Tensor, *, mask_BS: Tensor) -> Conditioning:
        """Run AlignNet's forward with the averaged weights."""
        named = {f"alignnet.{name}": weight for name, weight in self.weights.items()}
        conditioning: Conditioning = functional_call(self._shape, named, (states_BCSH,), {"mask_BS": mask_BS})
        return conditioning
