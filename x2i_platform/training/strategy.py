"""How AlignNet's gradients, optimizer and weights are spread over workers: plain DDP, or DeepSpeed ZeRO 1, 2, 3.

Invariants: every strategy computes the same update; what is saved, `OptimizerState`, is whole float32 tensors by
parameter name, so a checkpoint can be resumed under another strategy or number of workers, and loading it runs no code.
The frozen DiT stays outside: it is a plain replica on each worker.
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
    """AlignNet and AdamW between two steps, each dict by parameter name, on the CPU."""

    updates: int
    weights: dict[str, Tensor]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]


class Strategy(ABC):
    """AlignNet with its optimizer. Collective: every worker makes the same calls in the same order."""

    def __init__(self, alignnet: AlignNet, *, config: TrainConfig) -> None:
        self.alignnet, self.config = alignnet, config
        self.updates = 0

    @abstractmethod
    def __call__(self, states_BCSH: Tensor, *, mask_BS: Tensor) -> Conditioning:
        """AlignNet's forward."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro-batch; the accumulated mean is over workers and micro-batches."""

    @abstractmethod
    def update(self, lr: float) -> float:
        """Clip, step and clear the gradients; returns the gradient norm before clipping.

        Where that is not finite, nothing is updated, on any worker.
        """

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Whole float32 weights by name, detached."""

    @abstractmethod
    def state(self) -> OptimizerState:
        """A copy of everything that the next update depends on."""

    @abstractmethod
    def restore(self, state: OptimizerState) -> None:
        """Continue as if this strategy had made the state's updates itself."""


class DDP(Strategy):
    """PyTorch's DistributedDataParallel, or the bare module where there is no process group."""

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
    """DeepSpeed at a ZeRO stage, float32 throughout: AlignNet is small, its precision costs nothing beside the DiT."""

    def __init__(self, alignnet: AlignNet, *, config: TrainConfig, stage: int, micro_batch: int) -> None:
        super().__init__(alignnet, config=config)
        if not torch.cuda.is_available():  # DeepSpeed guesses from what is installed, and is wrong without a GPU
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        # On the CPU DeepSpeed would compile a shared-memory extension at first use; gloo does without it.
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
            self._engine.step()  # counts the micro-batch; the update itself waits for `update`

    def update(self, lr: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())  # infinite where DeepSpeed left the step out
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
        # Set where the forward reads them; the optimizer's own copy follows. The other way round, through
        # `safe_set_full_fp32_param`, the next forward would still see the old weights.
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
        # ZeRO-3 pads a tensor to equal parts, but its setter for whole tensors can't cut one that needs padding.
        size, rank = parameter.ds_tensor.numel(), self._engine.global_rank
        padded = value.new_zeros(size * self._engine.world_size)
        padded[: value.numel()] = value.flatten()
        utils.safe_set_local_optimizer_state(parameter, padded[rank * size : (rank + 1) * size], moment)

    def _create_moments(self) -> None:
        """DeepSpeed creates AdamW's moments at the first step: take a step with rate 0 before they are overwritten."""
        dims = self.alignnet.dims
        device = self._engine.device
        states_BCSH = torch.zeros(1, dims.num_layers, 1, dims.hidden_size, device=device)
        mask_BS = torch.ones(1, 1, dtype=torch.bool, device=device)
        for _ in range(self.config.accumulation):
            conditioning = self(states_BCSH, mask_BS=mask_BS)
            self.backward((conditioning.prompt_embeds_BTE.sum() + conditioning.pooled_BP.sum()) * 0.0)
        self.update(lr=0.0)


class Autocast(nn.Module):
    """AlignNet in the recipe's precision. It is inside the wrapped module because DeepSpeed switches off an outer
    autocast.
    """

    def __init__(self, alignnet: AlignNet, *, config: TrainConfig) -> None:
        super().__init__()
        self.alignnet = alignnet
        self.enabled = config.precision == "bfloat16"

    def forward(self, states_BCSH: Tensor, *, mask_BS: Tensor) -> Conditioning:
        with torch.autocast(states_BCSH.device.type, dtype=torch.bfloat16, enabled=self.enabled):
            conditioning: Conditioning = self.alignnet(states_BCSH, mask_BS=mask_BS)
        return conditioning


def build_strategy(name: str, *, alignnet: AlignNet, config: TrainConfig, micro_batch: int) -> Strategy:
    """The strategy of a recipe: `ddp`, `zero1`, `zero2` or `zero3`."""
    if name == "ddp":
        return DDP(alignnet, config=config)
    return ZeRO(alignnet, config=config, stage=int(name.removeprefix("zero")), micro_batch=micro_batch)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
