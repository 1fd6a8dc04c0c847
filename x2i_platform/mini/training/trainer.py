"""A resumable training loop for all parts of the miniature.

Invariants: a step's data depend on the seed and the step's number alone, so a killed run continues as if it had not
been killed; a checkpoint appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from x2i_platform.errors import TrainingError
from x2i_platform.files import publish, published
from x2i_platform.mini.training.muon import Muon

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
LOG_EVERY = 50

Loss = Callable[[int], Mapping[str, Tensor]]
"""Maps the step's number to `loss`, which is minimised, and further metrics for the log."""


@dataclass(frozen=True)
class Schedule:
    """Length, batch size and optimizer settings of a part's training."""

    steps: int
    batch: int
    """Examples per step; the part's loss draws them."""
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema: float = 0.999
    muon: bool = True
    """True: Muon for matrices inside the network, AdamW for embeddings, norms and kernels. False: AdamW for all."""
    save_every: int = 100


def train(model: nn.Module, loss: Loss, *, schedule: Schedule, folder: Path, title: str, inputs: str = "") -> nn.Module:
    """Train `model` in place from the folder's last checkpoint, and set it to its averaged weights.

    A checkpoint belongs to one initial state: the schedule, all initial weights, frozen ones too, and `inputs`, a
    digest of everything else that the loss depends on. Raises TrainingError for a checkpoint of another initial state,
    and for a gradient that is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(model, schedule=schedule, initial_state=_initial_state(model, schedule=schedule, inputs=inputs))
    run.resume(folder / CHECKPOINT)
    _truncate_log(folder / LOG, after=run.step)
    bar = tqdm(total=schedule.steps, initial=run.step, desc=title, mininterval=10)
    resumed, before = time.monotonic(), run.seconds
    while run.step < schedule.steps:
        figures = run.update(loss(run.step))
        run.seconds = before + time.monotonic() - resumed
        is_last = run.step == schedule.steps
        if run.step % LOG_EVERY == 0 or is_last:
            values = {name: round(float(value.detach()), 6) for name, value in figures.items()}
            with (folder / LOG).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": run.step, "seconds": round(run.seconds, 1), **values}) + "\n")
        if run.step % schedule.save_every == 0 or is_last:
            run.save(folder / CHECKPOINT)
        bar.update()
    bar.close()
    run.finish()
    return model


class _Run:
    """The state of a training: trained weights, their average, the optimizers and the position."""

    def __init__(self, model: nn.Module, *, schedule: Schedule, initial_state: str) -> None:
        self.step, self.seconds = 0, 0.0
        self._model, self._schedule, self._initial_state = model, schedule, initial_state
        self._optimizers = _optimizers(model, schedule=schedule)
        self._average = {name: parameter.detach().clone() for name, parameter in _trained(model)}

    def update(self, figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take one step. Returns the metrics with the gradient norm added."""
        figures["loss"].backward()  # type: ignore[no-untyped-call]
        parameters = [parameter for _, parameter in _trained(self._model)]
        norm = nn.utils.clip_grad_norm_(parameters, self._schedule.max_grad_norm)
        if not math.isfinite(float(norm)):
            raise TrainingError(f"step {self.step}: the gradient's norm is {float(norm)}; nothing was updated")
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._schedule.lr * _share_of_lr(self.step, schedule=self._schedule)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        # A shorter average at the beginning, so that it soon forgets the initial weights.
        decay = min(self._schedule.ema, self.step / (self.step + 9))
        with torch.no_grad():
            for name, parameter in _trained(self._model):
                self._average[name].lerp_(parameter, 1 - decay)
        return {**figures, "norm": norm}

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state = {
            "beginning": self._initial_state,
            "step": self.step,
            "seconds": self.seconds,
            "model": {name: parameter.detach() for name, parameter in _trained(self._model)},
            "average": self._average,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        with published(path) as scratch:
            torch.save(state, scratch)

    def resume(self, path: Path) -> None:
        """Resume from a checkpoint if there is one."""
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        if state["beginning"] != self._initial_state:
            raise TrainingError(
                f"{path} is of another schedule, other weights to begin with or other data; delete its folder, or use "
                "another --folder"
            )
        self._set_weights(state["model"])
        with torch.no_grad():
            for name, saved in state["average"].items():
                self._average[name].copy_(saved)
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = int(state["step"]), float(state["seconds"])

    def finish(self) -> None:
        """Set the model to its averaged weights."""
        self._set_weights(self._average)

    @torch.no_grad()
    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in _trained(self._model):
            parameter.copy_(weights[name])


def _initial_state(model: nn.Module, *, schedule: Schedule, inputs: str) -> str:
    """Hash the schedule, the inputs and all weights."""
    total = hashlib.sha256(json.dumps([asdict(schedule), inputs], sort_keys=True).encode())
    for name, parameter in model.named_parameters():
        total.update(name.encode() + parameter.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def _trained(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _optimizers(model: nn.Module, *, schedule: Schedule) -> list[torch.optim.Optimizer]:
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    parameters = [parameter for _, parameter in _trained(model)]
    inner = [p for p in parameters if schedule.muon and p.ndim == 2 and id(p) not in embeddings and min(p.shape) >= 16]
    chosen = {id(p) for p in inner}
    rest = [p for p in parameters if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        optimizers.append(
            torch.optim.AdamW(rest, lr=schedule.lr, betas=(0.9, 0.98), weight_decay=schedule.weight_decay)
        )
    if inner:
        optimizers.append(Muon(inner, lr=schedule.lr, weight_decay=schedule.weight_decay))
    return optimizers


def _share_of_lr(step: int, *, schedule: Schedule) -> float:
    """Return the share of the peak rate: linear warm-up, then a cosine down to 1 %."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def _truncate_log(path: Path, *, after: int) -> None:
    """Drop log lines after the checkpoint, whose steps are repeated, and a line that a kill cut off."""
    if not path.is_file():
        return
    lines = [line for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
    publish(path, "".join(line for line in lines if json.loads(line)["step"] <= after).encode())
