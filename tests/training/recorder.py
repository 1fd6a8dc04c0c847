"""Keeps what a training says and saves, and kills it where a test wants that."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from x2i_platform.training import checkpoint
from x2i_platform.training.checkpoint import TrainingState
from x2i_platform.training.loop import Hooks, Metrics, Trainer

LONG = (
    "train.steps=11",
    "train.accumulation=2",
    "train.ema=0.9",
    "run.train.log_every=3",
    "run.train.checkpoint_every=4",
)


class KilledError(Exception):
    """Stands for whatever ends a worker."""


@dataclass
class Recorder:
    """Keeps what a training says and saves; dies after saving at some number of updates, if told to."""

    folder: Path
    die_after: int | None = None
    logged: list[tuple[int, Metrics]] = field(default_factory=list)
    states: dict[int, TrainingState] = field(default_factory=dict)

    def run(self, trainer: Trainer) -> Recorder:
        def log(step: int, metrics: Metrics) -> None:
            same = {key: value for key, value in metrics.items() if not key.endswith("samples_per_s")}
            self.logged.append((step, same))

        def save(updates: int, state: TrainingState, metrics: Metrics) -> None:
            self.states[updates] = state
            checkpoint.save(self.path(updates), state, alignnet=trainer.alignnet, recipe=trainer.recipe)
            if updates == self.die_after:
                raise KilledError

        trainer.train(Hooks(log=log, save=save))
        return self

    def path(self, updates: int) -> Path:
        return self.folder / str(updates)

    def series(self, name: str) -> dict[int, float]:
        """A metric by step."""
        return {step: metrics[name] for step, metrics in self.logged if name in metrics}


def tensors_of(state: TrainingState) -> dict[str, Tensor]:
    optimizer = state.optimizer
    parts = {"weights": optimizer.weights, "m": optimizer.exp_avg, "v": optimizer.exp_avg_sq, "ema": state.ema}
    return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}


def assert_equal_states(one: TrainingState, other: TrainingState) -> None:
    assert one.optimizer.updates == other.optimizer.updates
    assert tensors_of(one).keys() == tensors_of(other).keys()
    assert all(torch.equal(tensor, tensors_of(other)[key]) for key, tensor in tensors_of(one).items())
