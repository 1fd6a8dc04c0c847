"""Versions of small models in a real MLflow registry, for tests to work on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from safetensors.numpy import save_file

from x2i_platform.registry.models import register
from x2i_platform.registry.tracking import RunInfo, start_or_resume


def registered(tracking_uri: str, folder: Path, *, value: float = 1.0, name: str = "mini") -> RunInfo:
    """A version of a model, and the run that made it."""
    folder.mkdir()
    save_file({"conv.weight": np.full((1, 5, 5, 5), value, np.float32)}, folder / "alignnet.safetensors")
    dims = {"num_layers": 5, "hidden_size": 64, "text_tokens": 32, "prompt_dim": 48, "pooled_dim": 16}
    (folder / "config.json").write_text(json.dumps({"alignnet": {"fusion": "conv"}, "dims": dims}))
    key = folder.name
    info = start_or_resume(tracking_uri=tracking_uri, experiment=name, run_name="r", key=key, params={}, tags={})
    register(folder, name=name, info=info, manifest_digest="abc", card="# A model\n")
    return info


def holder(tracking_uri: str, alias: str = "champion") -> int | None:
    """The version that an alias of `mini` points at."""
    version = MlflowClient(tracking_uri).get_registered_model("mini").aliases.get(alias)
    return None if version is None else int(version)
