"""The training loop of one worker: for each step, micro-batches forward and backward, update, log, save.

Invariants: nothing is updated after a non-finite loss or gradient; log and save happen at fixed steps, so a resumed run
does what an uninterrupted one would have done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from x2i_platform.config import Recipe, TrainConfig
from x2i_platform.distill.checkpoint import TrainingState
from x2i_platform.distill.data import Collate, FeatureDataset, Place, StepSampler
from x2i_platform.distill.losses import require_finite
from x2i_platform.distill.step import StepResult, distill_step
from x2i_platform.distill.strategy import Strategy, build_strategy
from x2i_platform.distill.validation import shared_out, validation_losses
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.teacher import Teacher

Metrics = dict[str, float]
MAX_VALIDATION_SAMPLES = 256


@dataclass(frozen=True)
class Worker:
    """Who this process is among the workers."""

    rank: int
    world: int
    device: str


@dataclass(frozen=True)
class Data:
    """Where the samples are, and which are trained on."""

    store: str
    train: Sequence[Place]
    held_out: Sequence[Place]


@dataclass(frozen=True)
class Hooks:
    """What the loop tells the world. Both are called on every worker; what they do on each is theirs to decide."""

    log: Callable[[int, Metrics], None]
    save: Callable[[int, TrainingState, Metrics], None]


class Trainer:
    """One worker's models and optimizer."""

    def __init__(self, recipe: Recipe, *, dims: AlignNetDims, worker: Worker, data: Data) -> None:
        self.recipe, self.worker, self.data = recipe, worker, data
        self.teacher = Teacher.load(recipe.teacher, device=worker.device)
        if recipe.train.gradient_checkpointing:
            self.teacher.enable_gradient_checkpointing()
        self.alignnet = AlignNet(recipe.alignnet, dims=dims).to(worker.device)
        self.strategy: Strategy = build_strategy(
            recipe.run.train.strategy,
            alignnet=self.alignnet,
            config=recipe.train,
            micro_batch=recipe.train.batch_size // (worker.world * recipe.train.accumulation),
        )
        self.ema: dict[str, Tensor] = {}
        self.collate = Collate(recipe.alignnet.padding, text_tokens=recipe.teacher.text_tokens)

    def restore(self, state: TrainingState) -> None:
        """Continue from a checkpoint."""
        self.strategy.restore(state.optimizer)
        self.ema = {name: tensor.to(self.worker.device) for name, tensor in state.ema.items()}

    def train(self, hooks: Hooks) -> None:
        """Run the steps that are left. Raises TrainingError for a loss or gradient that is not finite."""
        config, run = self.recipe.train, self.recipe.run.train
        if self.strategy.updates == 0:
            hooks.log(0, self.validate())
        batches = iter(self._loader(first_step=self.strategy.updates))
        meter = _Meter()
        for step in range(self.strategy.updates, config.steps):
            results = []
            for _ in range(config.accumulation):
                batch = next(batches).to(self.worker.device)
                result = distill_step(self.strategy, teacher=self.teacher, batch=batch, config=config)
                require_finite(result.loss, what=f"loss on samples {', '.join(batch.sample_ids)}", step=step + 1)
                self.strategy.backward(result.loss)
                results.append(result)
            grad_norm = self.strategy.update(learning_rate(step, config=config))
            require_finite(torch.tensor(grad_norm), what="gradient norm", step=step + 1)
            self._average_weights()
            meter.count(results, batch_size=config.batch_size)
            done = step + 1
            if done % run.log_every == 0 or done == config.steps:
                lr = learning_rate(step, config=config)
                hooks.log(done, {**self._mean(meter.flush()), "lr": lr, "grad_norm": grad_norm})
            if done % run.checkpoint_every == 0 or done == config.steps:
                metrics = self.validate()
                hooks.log(done, metrics)
                hooks.save(done, TrainingState(self.strategy.state(), self._ema_on_cpu()), metrics)

    def validate(self) -> Metrics:
        """KL per token on captions never trained on; empty where the recipe holds none out."""
        dataset = FeatureDataset(self.data.store)
        places = self.data.held_out[:MAX_VALIDATION_SAMPLES]
        mine, counted = shared_out(places, rank=self.worker.rank, world=self.worker.world)
        batches = (self.collate([dataset[place]]).to(self.worker.device) for place in mine)
        losses = validation_losses(self.strategy, teacher=self.teacher, batches=batches, config=self.recipe.train)
        total = sum(losses[:counted])
        return {"validation_kl_per_token": _sum_over_workers(total, self.worker) / len(places)} if places else {}

    def _loader(self, *, first_step: int) -> DataLoader[Any]:
        sampler = StepSampler(
            self.data.train,
            config=self.recipe.train,
            first_step=first_step,
            rank=self.worker.rank,
            world=self.worker.world,
        )
        return DataLoader(
            FeatureDataset(self.data.store),
            batch_sampler=sampler,
            collate_fn=self.collate,
            num_workers=self.recipe.run.train.loader_workers,
            pin_memory=self.worker.device.startswith("cuda"),
        )

    def _average_weights(self) -> None:
        decay = self.recipe.train.ema
        if not decay:
            return
        weights = self.strategy.weights()
        if not self.ema:
            self.ema = {name: weight.clone() for name, weight in weights.items()}
            return
        for name, average in self.ema.items():
            average.lerp_(weights[name], 1 - decay)

    def _ema_on_cpu(self) -> dict[str, Tensor]:
        return {name: average.cpu().contiguous() for name, average in self.ema.items()}

    def _mean(self, metrics: Metrics) -> Metrics:
        means = {key: _sum_over_workers(metrics[key], self.worker) / self.worker.world for key in _AVERAGED}
        return {**metrics, **means}


def learning_rate(step: int, *, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine to zero. Steps count from 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


_AVERAGED = ("loss", "kl_per_token")


class _Meter:
    """Means since the last log. Losses stay tensors until then: reading one waits for the device."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._num_tokens = 1
        self._samples = 0
        self._since = time.monotonic()

    def count(self, results: Sequence[StepResult], *, batch_size: int) -> None:
        self._losses += [result.loss.detach() for result in results]
        self._num_tokens = results[0].num_tokens
        self._samples += batch_size

    def flush(self) -> Metrics:
        loss = float(torch.stack(self._losses).mean())
        now = time.monotonic()
        rate = self._samples / (now - self._since)
        self._losses, self._samples, self._since = [], 0, now
        return {"loss": loss, "kl_per_token": loss / self._num_tokens, "samples_per_s": rate}


def _sum_over_workers(value: float, worker: Worker) -> float:
    if worker.world == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=worker.device)
    torch.distributed.all_reduce(total)
    return float(total)
