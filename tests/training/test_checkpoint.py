"""A checkpoint on disk: what it holds, and which damage is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.training.conftest import World
from tests.training.recorder import LONG, Recorder, assert_equal_states
from x2i_platform.errors import TrainingError
from x2i_platform.models.model_folder import load_alignnet
from x2i_platform.training import checkpoint


def test_a_checkpoint_holds_the_state_and_a_model_folder(sampled: World, uninterrupted: Recorder) -> None:
    folder = uninterrupted.path(8)
    assert_equal_states(checkpoint.load(folder), uninterrupted.states[8])
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    alignnet = load_alignnet(folder)
    assert alignnet.dims == sampled.dims
    assert json.loads((folder / "recipe.json").read_text())["name"] == "random"
    for name in ("training.safetensors", "state.json"):
        (folder / name).unlink()
    assert load_alignnet(folder).dims == sampled.dims  # what a registered model keeps


@pytest.mark.parametrize(
    "damage", ["no file", "cut short", "no state", "empty state", "a moment missing", "another file"]
)
def test_a_damaged_checkpoint_is_refused(uninterrupted: Recorder, sampled: World, tmp_path: Path, damage: Any) -> None:
    folder = tmp_path / "checkpoint"
    trainer = sampled.trainer(*LONG)
    checkpoint.save(folder, uninterrupted.states[4], alignnet=trainer.alignnet, recipe=trainer.recipe)
    tensors, state = folder / "training.safetensors", folder / "state.json"
    if damage == "no file":
        tensors.unlink()
    elif damage == "cut short":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "no state":
        state.unlink()
    elif damage == "empty state":
        state.write_text("[]")
    elif damage == "a moment missing":
        held = load_file(tensors)
        del held["exp_avg/mlp.fc.1.bias"]
        save_file(held, tensors)
    else:
        save_file(load_file(folder / "alignnet.safetensors"), tensors)
    with pytest.raises(TrainingError, match=r"checkpoint '.*checkpoint' can't be resumed: "):
        checkpoint.load(folder)
