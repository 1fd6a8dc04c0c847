"""The training loop of one worker: for each step, micro-batches forward and backward, update, log, save.

Invariants: nothing is updated after a non-finite loss or gradient; log and save happen at fixed steps, so a resumed run
does what an uninterrupted one would have done.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from x2i_platform.config import Recipe, TrainConfig
from x2i_platform.distill.checkpoint import TrainingState
from x2i_platform.distill.data import Batch, Collate, FeatureDataset, Place, StepSampler
from x2i_platform.distill.losses import require_finite
from x2i_platform.distill.step import StepResult, distill_step
from x2i_platform.distill.strategy import Strategy, build_strategy
from x2i_platform.distill.validation import shared_out, validation_losses
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.teacher import Teacher

Metrics = dict[str, float]
MAX_VALIDATION_SAMPLES = 64
"""Held-out samples lie scattered over the shards, and each costs the reading of one."""


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
        self.ema = {name: tensor.to(self.worker.device, copy=True) for name, tensor in state.ema.items()}

    def train(self, hooks: Hooks) -> None:
        """Run the steps that are left. Raises TrainingError for a loss or gradient that is not finite."""
        config, run = self.recipe.train, self.recipe.run.train
        if self.strategy.updates == 0:
            hooks.log(0, self.validate())
        batches = iter(self._loader(first_step=self.strategy.updates))
        meter = _Meter()
        for done in range(self.strategy.updates + 1, config.steps + 1):
            results = [self._forward_backward(next(batches)) for _ in range(config.accumulation)]
            loss = self._mean_loss(results, step=done)
            lr = learning_rate(done - 1, config=config)
            grad_norm = self.strategy.update(lr)
            require_finite(torch.tensor(grad_norm), what="gradient norm", step=done)
            self._average_weights()
            meter.count(loss, batch_size=config.batch_size)
            saves = done % run.checkpoint_every == 0 or done == config.steps
            if saves or done % run.log_every == 0:  # no mean spans a checkpoint: a resumed run logs the same
                means = meter.flush(num_tokens=results[0].num_tokens)
                hooks.log(done, {**means, "lr": lr, "grad_norm": grad_norm})
            if saves:
                metrics = self.validate()
                hooks.log(done, metrics)
                hooks.save(done, TrainingState(self.strategy.state(), self._ema_on_cpu()), metrics)
                meter = _Meter()  # its clock leaves out validation and saving

    def validate(self) -> Metrics:
        """KL per token on captions never trained on; empty where the recipe holds none out."""
        dataset = FeatureDataset(self.data.store)
        places = self.data.held_out[:MAX_VALIDATION_SAMPLES]
        mine, counted = shared_out(places, rank=self.worker.rank, world=self.worker.world)
        batches = (self.collate([dataset[place]]).to(self.worker.device) for place in mine)
        losses = validation_losses(self.strategy, teacher=self.teacher, batches=batches, config=self.recipe.train)
        total = sum(losses[:counted])
        return {"validation_kl_per_token": _sum_over_workers(total, self.worker) / len(places)} if places else {}

    def _forward_backward(self, batch: Batch) -> StepResult:
        batch = batch.to(self.worker.device)
        result = distill_step(self.strategy, teacher=self.teacher, batch=batch, config=self.recipe.train)
        self.strategy.backward(result.loss)
        return replace(result, loss=result.loss.detach())

    def _mean_loss(self, results: Sequence[StepResult], *, step: int) -> float:
        """Over micro-batches and workers. Raises TrainingError on every worker alike: none is left waiting."""
        losses = torch.stack([result.loss for result in results]).tolist()  # the step's one wait for the device
        mean = _sum_over_workers(sum(losses), self.worker) / (len(losses) * self.worker.world)
        if not math.isfinite(mean):
            mine = [result.sample_ids for result, loss in zip(results, losses, strict=True) if not math.isfinite(loss)]
            suspects = itertools.chain(*itertools.chain(*_of_all_workers(mine, self.worker)))
            require_finite(torch.tensor(mean), what=f"loss on samples {', '.join(suspects)}", step=step)
        return mean

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
        return {name: average.to("cpu", copy=True) for name, average in self.ema.items()}


def learning_rate(step: int, *, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine to zero. Steps count from 0."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


class _Meter:
    """Means since the last log."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._samples = 0
        self._since = time.monotonic()

    def count(self, loss: float, *, batch_size: int) -> None:
        self._losses.append(loss)
        self._samples += batch_size

    def flush(self, *, num_tokens: int) -> Metrics:
        loss = sum(self._losses) / len(self._losses)
        now = time.monotonic()
        rate = self._samples / (now - self._since)
        self._losses, self._samples, self._since = [], 0, now
        return {"loss": loss, "kl_per_token": loss / num_tokens, "samples_per_s": rate}


def _sum_over_workers(value: float, worker: Worker) -> float:
    if worker.world == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=worker.device)
    torch.distributed.all_reduce(total)
    return float(total)


def _of_all_workers(value: list[tuple[str, ...]], worker: Worker) -> list[list[tuple[str, ...]]]:
    values = [value] * worker.world
    if worker.world > 1:
        torch.distributed.all_gather_object(values, value)
    return values
