"""One resumable training loop for all the miniature's parts.

Invariants: what a step sees depends on the seed and the step's number alone, so a run that was killed continues as if
it had not been; a checkpoint appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from x2i_platform.mini.training.muon import Muon

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"

Loss = Callable[[int], Mapping[str, Tensor]]
"""The step's number in; `loss`, which is minimised, and further figures for the log."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a part learns."""

    steps: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema: float = 0.999
    muon: bool = True
    """Muon for the matrices inside the network, AdamW for embeddings, norms and kernels; else AdamW for all."""
    save_every: int = 100


def train(model: nn.Module, loss: Loss, *, schedule: Schedule, folder: Path, title: str) -> nn.Module:
    """Train `model` in place, from the folder's last checkpoint on, and give it its averaged weights."""
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = _optimizers(model, schedule=schedule)
    average = {name: parameter.detach().clone() for name, parameter in _trained(model)}
    start = _resume(folder / CHECKPOINT, model=model, optimizers=optimizers, average=average)
    _forget(folder / LOG, after=start)
    began = time.monotonic()
    for step in tqdm(range(start, schedule.steps), initial=start, total=schedule.steps, desc=title, mininterval=10):
        figures = loss(step)
        figures["loss"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(
            [p for _, p in _trained(model)], schedule.max_grad_norm, error_if_nonfinite=True
        )
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr * _share_of_lr(step, schedule=schedule)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        _follow(average, model, decay=min(schedule.ema, (step + 1) / (step + 10)))
        if (step + 1) % 50 == 0:
            _log(folder / LOG, step=step + 1, seconds=time.monotonic() - began, figures={**figures, "norm": norm})
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            _save(folder / CHECKPOINT, step=step + 1, model=model, optimizers=optimizers, average=average)
    with torch.no_grad():
        for name, parameter in _trained(model):
            parameter.copy_(average[name])
    return model


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
    """Linear warm-up, then a cosine down to 1 %."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: nn.Module, *, decay: float) -> None:
    for name, parameter in _trained(model):
        average[name].lerp_(parameter, 1 - decay)


def _log(path: Path, *, step: int, seconds: float, figures: Mapping[str, Tensor]) -> None:
    values = {name: round(float(value.detach()), 6) for name, value in figures.items()}
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps({"step": step, "seconds": round(seconds, 1), **values}) + "\n")


def _forget(path: Path, *, after: int) -> None:
    """Drop what was logged past the checkpoint: those steps are taken again."""
    if path.is_file():
        lines = [line for line in path.read_text("utf-8").splitlines() if json.loads(line)["step"] <= after]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _save(
    path: Path, *, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer], average: dict[str, Tensor]
) -> None:
    state = {
        "step": step,
        "model": {name: parameter.detach() for name, parameter in _trained(model)},
        "average": average,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    aside = path.with_suffix(".tmp")
    torch.save(state, aside)
    aside.replace(path)


def _resume(
    path: Path, *, model: nn.Module, optimizers: list[torch.optim.Optimizer], average: dict[str, Tensor]
) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, parameter in _trained(model):
            parameter.copy_(state["model"][name])
            average[name].copy_(state["average"][name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])
