"""What MLflow is told of a model, its `MLmodel`: how its own tools run it, and which tensors AlignNet maps.

Two flavours. `python_function` is for `mlflow models predict`, `mlflow models serve` and `mlflow.pyfunc.load_model`;
the signature, a model's only one, is of its table of prompts and images. `x2i_platform` names our files and AlignNet's
tensors. No environment is described: this package comes from no index that MLflow could install it from, so MLflow runs
the model where it is installed (`--env-manager local`).
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import mlflow.models
import mlflow.pyfunc
import numpy as np
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from x2i_platform.errors import RegistryError
from x2i_platform.models.model_folder import CONFIG_FILE, WEIGHTS_FILE

FLAVOUR = "x2i_platform"
LOADER = "x2i_platform.pyfunc"
"""Module that MLflow imports to load a model; named and not imported, as it loads torch."""
INPUTS = {
    "prompt": DataType.string,
    "seed": DataType.long,
    "width": DataType.long,
    "height": DataType.long,
    "num_inference_steps": DataType.long,
    "guidance": DataType.double,
}
"""Columns that a table of prompts may have; all but the first may be left out. A whole number can't be missing in one
row alone: pandas has no empty cell for it, and MLflow refuses the column."""
OUTPUTS = {"png_base64": DataType.string, "seed": DataType.long, "answer": DataType.string}
"""Keys of an image; `answer` is there where the MLLM's answer conditioned it."""
OPTIONAL_INPUTS, OPTIONAL_OUTPUTS = set(INPUTS) - {"prompt"}, {"answer"}


def mlflow_model(folder: Path, *, path: str, run_id: str) -> mlflow.models.Model:
    """The content of `MLmodel` for a model folder that is logged to `path` of a run.

    Raises RegistryError if its config lacks AlignNet's sizes.
    """
    model = mlflow.models.Model(
        artifact_path=path,
        run_id=run_id,
        flavors={FLAVOUR: {"weights": WEIGHTS_FILE, "config": CONFIG_FILE, "tensors": _tensors(folder)}},
        signature=mlflow.models.ModelSignature(
            inputs=_table(INPUTS, optional=OPTIONAL_INPUTS), outputs=_table(OUTPUTS, optional=OPTIONAL_OUTPUTS)
        ),
    )
    mlflow.pyfunc.add_to_model(model, loader_module=LOADER)
    return model


def _table(columns: Mapping[str, DataType], *, optional: Container[str]) -> Schema:
    return Schema([ColSpec(kind, name, required=name not in optional) for name, kind in columns.items()])


def _tensors(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """AlignNet's inputs and outputs as MLflow writes tensors; -1 is the batch and the sequence."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RegistryError(f"{folder / CONFIG_FILE} is not JSON: {error}") from error
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    dims = {key: value for section in sections for key, value in section.items()}
    missing = [key for key in ("num_layers", "hidden_size", "prompt_dim", "pooled_dim") if key not in dims]
    if missing:
        raise RegistryError(f"{folder / CONFIG_FILE} doesn't say {', '.join(missing)}; it must hold AlignNet's sizes")
    real, truth = np.dtype(np.float32), np.dtype(np.bool_)
    inputs = [
        TensorSpec(real, (-1, dims["num_layers"], -1, dims["hidden_size"]), "hidden_states"),
        TensorSpec(truth, (-1, -1), "mask"),
    ]
    outputs = [
        TensorSpec(real, (-1, -1, dims["prompt_dim"]), "prompt_embeds"),
        TensorSpec(real, (-1, dims["pooled_dim"]), "pooled"),
    ]
    return {"inputs": Schema(inputs).to_dict(), "outputs": Schema(outputs).to_dict()}
