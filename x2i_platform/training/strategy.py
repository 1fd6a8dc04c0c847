"""Spreads AlignNet's gradients, optimizer and weights over workers: plain DDP, or DeepSpeed ZeRO 1, 2, 3.

Invariants: every strategy computes the same update; the saved `OptimizerState` holds whole float32 tensors by parameter
name, so a checkpoint can be resumed with another strategy or number of workers, and loading it runs no code. The frozen
DiT is not part of this: each worker has a plain replica.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from x2i_platform.config import TrainConfig
from x2i_platform.models.alignnet import AlignNet
from x2i_platform.models.conditioning import Conditioning

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class OptimizerState:
    """Weights and AdamW state between two steps: dicts by parameter name, on the CPU."""

    updates: int
    weights: dict[str, Tensor]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]


class Strategy(ABC):
    """AlignNet with its optimizer. Calls are collective: every worker makes the same ones in the same order."""

    def __init__(self, alignnet: AlignNet, *, config: TrainConfig) -> None:
        self.alignnet, self.config = alignnet, config
        self.updates = 0

    @abstractmethod
    def __call__(self, states_BCSH: Tensor, *, mask_BS: Tensor) -> Conditioning:
        """Run AlignNet's forward."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro-batch, as a mean over workers and micro-batches."""

    @abstractmethod
    def update(self, lr: float) -> float:
        """Clip the gradients, take a step, clear them, and return the gradient norm before clipping.

        If the norm is not finite, no worker updates anything.
        """

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Return whole float32 weights by name, detached."""

    @abstractmethod
    def state(self) -> OptimizerState:
        """Return a copy of everything that the next update depends on."""

    @abstractmethod
    def restore(self, state: OptimizerState) -> None:
        """Continue from a state as if this strategy had made its updates."""


class DDP(Strategy):
    """PyTorch's DistributedDataParallel, or the bare module if there is only one worker."""

    def __init__(self, alignnet: AlignNet, *, config: TrainConfig) -> None:
        super().__init__(alignnet, config=config)
        distributed = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        module = Autocast(alignnet, config=config)
        self._module = nn.parallel.DistributedDataParallel(module) if distributed else module
        self._optimizer = torch.optim.AdamW(
            alignnet.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    def __call__(self, states_BCSH: Tensor, *, mask_BS: Tensor) -> Conditioning:
        conditioning: Conditioning = self._module(states_BCSH, mask_BS=mask_BS)
        return conditioning

    def backward(self, loss: Tensor) -> None:
        (loss / self.config.accumulation).backward()  # type: ignore[no-untyped-call]

    def update(self, lr: float) -> float:
        norm = float(nn.utils.clip_grad_norm_(self.alignnet.parameters(), self.config.max_grad_norm))
        if math.isfinite(norm):
            self._optimizer.param_groups[0]["lr"] = lr
            self._optimizer.step()
            self.updates += 1
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.alignnet.named_parameters()}

    def state(self) -> OptimizerState:
        moments = {
            moment: {
                name: _copy(self._optimizer.state[parameter][moment])
                for name, parameter in self.alignnet.named_parameters()
            }
            for moment in MOMENTS
        }
        return OptimizerState(self.updates, {n: _copy(w) for n, w in self.weights().items()}, **moments)

    @torch.no_grad()
    def restore(self, state: OptimizerState) -> None:
        self.updates = state.updates
        for name, parameter in self.alignnet.named_parameters():
            parameter.copy_(state.weights[name])
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(state.updates)),
                **{moment: getattr(state, moment)[name].to(parameter.device, copy=True) for moment in MOMENTS},
            }


class ZeRO(Strategy):
    """DeepSpeed at a ZeRO stage, with float32 weights: AlignNet is small, so they cost little beside the DiT."""

    def __init__(self, alignnet: AlignNet, *, config: TrainConfig, stage: int, micro_batch: int) -> None:
        super().__init__(alignnet, config=config)
        if not torch.cuda.is_available():
            # Without this DeepSpeed would choose its accelerator by what is installed.
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        # On the CPU DeepSpeed would compile a shared-memory extension at first use; gloo doesn't need it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        adam = {"lr": config.lr, "betas": list(config.betas), "weight_decay": config.weight_decay, "torch_adam": True}
        self._deepspeed = deepspeed
        self._engine: Any = deepspeed.initialize(
            model=Autocast(alignnet, config=config),
            model_parameters=list(alignnet.parameters()),
            config={
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": config.accumulation,
                "gradient_clipping": config.max_grad_norm,
                "optimizer": {"type": "AdamW", "params": adam},
                "zero_optimization": {"stage": stage},
            },
        )[0]

    def __call__(self, states_BCSH: Tensor, *, mask_BS: Tensor) -> Conditioning:
        conditioning: Conditioning = self._engine(states_BCSH, mask_BS=mask_BS)
        return conditioning

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch; `update` makes the update

    def update(self, lr: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())  # infinite if DeepSpeed skipped the step
        self.updates += math.isfinite(norm)
        return norm

    def weights(self) -> dict[str, Tensor]:
        get = self._deepspeed.utils.safe_get_full_fp32_param
        return {name: get(parameter).detach() for name, parameter in self.alignnet.named_parameters()}

    def state(self) -> OptimizerState:
        get = self._deepspeed.utils.safe_get_full_optimizer_state
        moments = {
            moment: {name: _copy(get(parameter, moment)) for name, parameter in self.alignnet.named_parameters()}
            for moment in MOMENTS
        }
        return OptimizerState(self.updates, {n: _copy(w) for n, w in self.weights().items()}, **moments)

    def restore(self, state: OptimizerState) -> None:
        self._create_moments()
        parameters = dict(self.alignnet.named_parameters())
        # Set the weights that the forward reads, then refresh the optimizer's copy. `safe_set_full_fp32_param` sets the
        # copy only, and the next forward would still see the old weights.
        with self._deepspeed.zero.GatheredParameters(list(parameters.values()), modifier_rank=0):
            for name, parameter in parameters.items():
                parameter.data.copy_(state.weights[name])
        self._engine.optimizer.refresh_fp32_params()
        for name, parameter in parameters.items():
            for moment in MOMENTS:
                self._set_moment(parameter, getattr(state, moment)[name].to(self._engine.device), moment=moment)
        for inner in self._engine.basic_optimizer.state.values():
            inner["step"] = torch.tensor(float(state.updates))
        self.updates = state.updates

    def _set_moment(self, parameter: Tensor, value: Tensor, *, moment: str) -> None:
        utils = self._deepspeed.utils
        if not hasattr(parameter, "ds_tensor"):
            utils.safe_set_full_optimizer_state(parameter, value, moment)
            return
        # ZeRO-3 pads a tensor to split it into equal parts. Its setter for whole tensors can't do that, so do it here.
        size, rank = parameter.ds_tensor.numel(), self._engine.global_rank
        padded = value.new_zeros(size * self._engine.world_size)
        padded[: value.numel()] = value.flatten()
        utils.safe_set_local_optimizer_state(parameter, padded[rank * size : (rank + 1) * size], moment)

    def _create_moments(self) -> None:
        """Take a step with learning rate 0: DeepSpeed creates AdamW's moments at the first step only."""
        dims = self.alignnet.dims
        device = self._engine.device
        states_BCSH = torch.zeros(1, dims.num_layers, 1, dims.hidden_size, device=device)
        mask_BS = torch.ones(1, 1, dtype=torch.bool, device=device)
        for _ in range(self.config.accumulation):
            conditioning = self(states_BCSH, mask_BS=mask_BS)
            self.backward((conditioning.prompt_embeds_BTE.sum() + conditioning.pooled_BP.sum()) * 0.0)
        self.update(lr=0.0)


class Autocast(nn.Module):
    """AlignNet in the recipe's precision. The autocast is in here because DeepSpeed disables one around it."""

    def __init__(self, alignnet: AlignNet, *, config: TrainConfig) -> None:
        super().__init__()
        self.alignnet = alignnet
        self.enabled = config.precision == "bfloat16"

    def forward(self, states_BCSH: Tensor, *, mask_BS: Tensor) -> Conditioning:
        with torch.autocast(states_BCSH.device.type, dtype=torch.bfloat16, enabled=self.enabled):
            conditioning: Conditioning = self.alignnet(states_BCSH, mask_BS=mask_BS)
        return conditioning


def build_strategy(name: str, *, alignnet: AlignNet, config: TrainConfig, micro_batch: int) -> Strategy:
    """Build the strategy `ddp`, `zero1`, `zero2` or `zero3`."""
    if name == "ddp":
        return DDP(alignnet, config=config)
    return ZeRO(alignnet, config=config, stage=int(name.removeprefix("zero")), micro_batch=micro_batch)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
