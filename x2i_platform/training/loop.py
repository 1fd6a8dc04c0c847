"""The training loop of one worker: for each step, micro-batches forward and backward, update, log, save.

A training has two phases, which share this loop: an optional warm start, and distillation.

Invariants: nothing is updated after a non-finite loss or gradient; logs and checkpoints come at fixed steps of a phase,
so a resumed run does the same as an uninterrupted one; the number of updates alone gives a run's position.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from x2i_platform.config import Recipe, TrainConfig
from x2i_platform.features.store import Manifest
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.teacher import Teacher
from x2i_platform.training.average import MovingAverage
from x2i_platform.training.checkpoint import TrainingState
from x2i_platform.training.data import Collate, FeatureDataset, Place, ShardDataset, StepSampler
from x2i_platform.training.losses import require_finite
from x2i_platform.training.step import StepResult, Student, distill_step
from x2i_platform.training.strategy import Strategy, build_strategy
from x2i_platform.training.validation import shared_out
from x2i_platform.training.warm_start import TextCollate, TextDataset, spread_of, warm_start_rate, warm_start_step

Metrics = dict[str, float]
MAX_VALIDATION_SAMPLES = 64
"""Held-out samples are scattered over the shards, so each one costs the reading of a shard."""
SPREAD_SAMPLES = 64
"""Number of training samples whose variances weigh the warm start's errors."""


@dataclass(frozen=True)
class Worker:
    """This process's rank among the workers, and its device."""

    rank: int
    world: int
    device: str


@dataclass(frozen=True)
class Data:
    """The store, and its samples for training and for validation."""

    store: str
    manifest: Manifest
    train: Sequence[Place]
    held_out: Sequence[Place]


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the loop. Both are called on every worker."""

    log: Callable[[int, Metrics], None]
    """Called with a step of the phase and its metrics."""
    save: Callable[[int, TrainingState, Metrics], None]
    """Called with the number of updates over both phases, the state to save, and metrics."""


@dataclass(frozen=True)
class Phase:
    """One phase of a training: its data, loss, learning rate and metric names. Its steps count from 1."""

    updates_before: int
    steps: int
    dataset: type[ShardDataset[Any]]
    collate: Callable[[Sequence[Any]], Any]
    step: Callable[..., StepResult]
    """Computes the loss from the student and a `batch=`."""
    rate: Callable[[int], float]
    """Learning rate of a step. This argument counts from 0."""
    figure: str
    """Metric name of loss / num_tokens; `validation_…` is the same on captions never trained on."""
    prefix: str = ""

    def named(self, metrics: Metrics) -> Metrics:
        """Return the metrics with this phase's prefix."""
        return {f"{self.prefix}{name}": value for name, value in metrics.items()}


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
        self.average = MovingAverage(self.alignnet, config=recipe.train)

    def restore(self, state: TrainingState) -> None:
        """Continue from a checkpoint."""
        self.strategy.restore(state.optimizer)
        self.average.weights = {name: each.to(self.worker.device, copy=True) for name, each in state.ema.items()}

    def train(self, hooks: Hooks) -> None:
        """Run the remaining steps. Raises TrainingError for a loss or gradient that is not finite."""
        if self.strategy.updates < self.recipe.train.warm_start_steps:
            self._run(self._warm_start(), hooks=hooks)
        self._run(self._distillation(), hooks=hooks)

    def _warm_start(self) -> Phase:
        config, dataset = self.recipe.train, TextDataset(self.data.store, self.data.manifest)
        spread = spread_of(dataset[place].text for place in self.data.train[:SPREAD_SAMPLES])
        return Phase(
            updates_before=0,
            steps=config.warm_start_steps,
            dataset=TextDataset,
            collate=TextCollate(self.recipe.alignnet.padding, text_tokens=self.recipe.teacher.text_tokens),
            step=partial(warm_start_step, spread=spread),
            rate=partial(warm_start_rate, config=config),
            figure="loss",
            prefix="warm_start/",
        )

    def _distillation(self) -> Phase:
        config = self.recipe.train
        return Phase(
            updates_before=config.warm_start_steps,
            steps=config.steps,
            dataset=FeatureDataset,
            collate=Collate(self.recipe.alignnet.padding, text_tokens=self.recipe.teacher.text_tokens),
            step=partial(distill_step, teacher=self.teacher, config=config),
            rate=partial(learning_rate, config=config),
            figure="kl_per_token",
        )

    def _run(self, phase: Phase, *, hooks: Hooks) -> None:
        config, run = self.recipe.train, self.recipe.run.train
        begun = self.strategy.updates - phase.updates_before
        if begun == 0:
            hooks.log(0, self._validate(phase))
        batches = iter(self._loader(phase, steps=range(begun, phase.steps)))
        meter = _Meter(phase.figure)
        for done in range(begun + 1, phase.steps + 1):
            results = [self._forward_backward(phase, next(batches)) for _ in range(config.accumulation)]
            loss = self._mean_loss(results, what=f"{phase.prefix}loss", step=done)
            lr = phase.rate(done - 1)
            grad_norm = self.strategy.update(lr)
            require_finite(torch.tensor(grad_norm), what=f"{phase.prefix}gradient norm", step=done)
            if config.ema and self.strategy.updates > config.warm_start_steps:
                self.average.update(self.strategy.weights())
            meter.count(loss, batch_size=config.batch_size)
            saves = done % run.checkpoint_every == 0 or done == phase.steps
            if saves or done % run.log_every == 0:  # means end at checkpoints, so a resumed run logs the same
                means = meter.flush(num_tokens=results[0].num_tokens)
                hooks.log(done, phase.named({**means, "lr": lr, "grad_norm": grad_norm}))
            if saves:
                metrics = self._validate(phase)
                hooks.log(done, metrics)
                ema = {name: weight.to("cpu", copy=True) for name, weight in self.average.weights.items()}
                state = TrainingState(self.strategy.state(), ema)
                hooks.save(self.strategy.updates, state, metrics)
                meter = _Meter(phase.figure)  # restart the clock: validation and saving don't count

    @torch.no_grad()
    def _validate(self, phase: Phase) -> Metrics:
        """Return the phase's metric on captions never trained on; empty if the recipe holds none out.

        It measures the weights that a checkpoint would ship now. If these are the moving average, the metric of the
        current weights is returned too, as `…_raw`.
        """
        places = self.data.held_out[:MAX_VALIDATION_SAMPLES]
        dataset = phase.dataset(self.data.store, self.data.manifest)
        if not places:
            return {}
        mine, counted = shared_out(places, rank=self.worker.rank, world=self.worker.world)
        batches = (phase.collate([dataset[place]]).to(self.worker.device) for place in mine)
        figure = f"validation_{phase.figure}"
        students: dict[str, Student] = {figure: self.strategy}
        if self.average.weights:
            students = {figure: self.average, f"{figure}_raw": self.strategy}
        totals = dict.fromkeys(students, 0.0)
        for number, batch in enumerate(batches):
            for name, student in students.items():
                result = phase.step(student, batch=batch)
                totals[name] += float(result.loss) / result.num_tokens if number < counted else 0.0
        means = {name: _sum_over_workers(total, self.worker) / len(places) for name, total in totals.items()}
        return phase.named(means)

    def _forward_backward(self, phase: Phase, batch: Any) -> StepResult:
        result = phase.step(self.strategy, batch=batch.to(self.worker.device))
        self.strategy.backward(result.loss)
        return replace(result, loss=result.loss.detach())

    def _mean_loss(self, results: Sequence[StepResult], *, what: str, step: int) -> float:
        """Average over micro-batches and workers. Raises TrainingError on all workers, so none is left waiting."""
        losses = torch.stack([result.loss for result in results]).tolist()  # the step's one wait for the device
        mean = _sum_over_workers(sum(losses), self.worker) / (len(losses) * self.worker.world)
        if not math.isfinite(mean):
            mine = [result.sample_ids for result, loss in zip(results, losses, strict=True) if not math.isfinite(loss)]
            suspects = itertools.chain(*itertools.chain(*_of_all_workers(mine, self.worker)))
            require_finite(torch.tensor(mean), what=f"{what} on samples {', '.join(suspects)}", step=step)
        return mean

    def _loader(self, phase: Phase, *, steps: range) -> DataLoader[Any]:
        sampler = StepSampler(
            self.data.train,
            config=self.recipe.train,
            steps=steps,
            rank=self.worker.rank,
            world=self.worker.world,
        )
        return DataLoader(
            phase.dataset(self.data.store, self.data.manifest),
            batch_sampler=sampler,
            collate_fn=phase.collate,
            num_workers=self.recipe.run.train.loader_workers,
            pin_memory=self.worker.device.startswith("cuda"),
        )


def learning_rate(step: int, *, config: TrainConfig) -> float:
    """Return the rate of a step from 0: linear warm-up, then half a cosine to zero."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


class _Meter:
    """Averages the loss and the throughput since the last log."""

    def __init__(self, figure: str) -> None:
        self._figure = figure
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
        return {"loss": loss, self._figure: loss / num_tokens, "samples_per_s": rate}


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
