"""A training checkpoint on disk: a model folder that `generate` can load, plus the state to resume from.

    alignnet.safetensors, config.json    AlignNet (its moving average where there is one)
    recipe.json                          the recipe, which names teacher and MLLM
    training.safetensors                 weights, AdamW's moments, moving average
    state.json                           number of updates

Invariant: only safetensors and JSON; a checkpoint does not depend on the number of workers or the strategy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from x2i_platform.config import Recipe
from x2i_platform.errors import TrainingError
from x2i_platform.models.alignnet import AlignNet
from x2i_platform.models.model_folder import save_model
from x2i_platform.training.strategy import MOMENTS, OptimizerState


@dataclass(frozen=True)
class TrainingState:
    """The state of a training. The position in the data and the learning rate follow from the number of updates."""

    optimizer: OptimizerState
    ema: dict[str, Tensor]
    """Moving average by parameter name; empty if the recipe keeps none."""


def save(folder: Path, state: TrainingState, *, alignnet: AlignNet, recipe: Recipe) -> None:
    """Write a checkpoint into a folder. Weights come from the state; `alignnet` only gives the structure."""
    optimizer = state.optimizer
    parts = {"weights": optimizer.weights, "exp_avg": optimizer.exp_avg, "exp_avg_sq": optimizer.exp_avg_sq}
    tensors = {f"{part}/{name}": t for part, named in {**parts, "ema": state.ema}.items() for name, t in named.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "training.safetensors")
    final = AlignNet(alignnet.config, dims=alignnet.dims)
    final.load_state_dict(state.ema or optimizer.weights)
    save_model(final, folder, recipe=recipe)
    (folder / "state.json").write_text(json.dumps({"updates": optimizer.updates}), encoding="utf-8")


def load(folder: Path) -> TrainingState:
    """Read a checkpoint. Raises TrainingError if it is incomplete or damaged."""
    try:
        tensors = load_file(folder / "training.safetensors")
        updates = int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["updates"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise TrainingError(f"checkpoint '{folder}' can't be resumed: {error}") from None
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in ("weights", *MOMENTS, "ema")}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts.setdefault(part, {})[name] = tensor
    names, averaged = parts["weights"].keys(), parts["ema"].keys()
    if not names or any(parts[moment].keys() != names for moment in MOMENTS) or (averaged and averaged != names):
        raise TrainingError(f"checkpoint '{folder}' can't be resumed: its tensors aren't those of a training")
    return TrainingState(OptimizerState(updates, parts["weights"], *(parts[m] for m in MOMENTS)), parts["ema"])
