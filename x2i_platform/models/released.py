"""Imports and exports AlignNet's weights in the layouts that X2I's authors released.

Invariants: only tensors and plain values are unpickled; a checkpoint is imported whole or refused with its first
error; dtypes and bits survive every round trip; a file appears under its name only when it is complete.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from x2i_platform.config import AlignNetConfig, Fusion
from x2i_platform.errors import WeightsError
from x2i_platform.files import published
from x2i_platform.models.alignnet import LAYER_NORM_EPS, AlignNet, AlignNetDims

WRAPPERS = ("state_dict", "module", "model", "model_state_dict")
"""Names under which trainers keep a state dict."""
MAX_WRAPPERS = 8
ANCHOR = "mlp.layernorm.weight"
"""A parameter that every AlignNet has. Its prefix in a state dict is the prefix of all names."""

Layout = Literal["reference", "comfyui"]
SUFFIXES: Mapping[Layout, str] = {"reference": ".bin", "comfyui": ".pt"}
StateDict = dict[str, Tensor]

_DAMAGED = (
    pickle.UnpicklingError,
    SafetensorError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
)
"""Errors of torch and safetensors for a truncated file, for garbage, and for a pickle that would run code."""


def import_checkpoint(
    path: str | Path, *, num_layers: int | None = None, text_tokens: int = 512
) -> tuple[AlignNetConfig, AlignNetDims, StateDict]:
    """Read a released AlignNet: `.bin` (a bare state dict), `.pt` (`{"config", "state_dict"}`) or `.safetensors`.

    Fusion, sizes and the T5 stack are inferred from the tensors; a `.pt`'s config must agree with them. `num_layers`
    (C) is only needed for a bare checkpoint of fusion `mean`, because no tensor of it has that size. The returned
    config has padding `reference`, as the releases were trained. Raises WeightsError for anything else.
    """
    path = Path(path)
    content = read_weights(path)
    content, released_config = _unwrapped(content, path=path)
    state = tensors_of(content, path=path)
    num_layers = _num_layers(state, path=path, otherwise=num_layers or released_config.get("in_channels"))
    config, dims = _infer(state, path=path, num_layers=num_layers)
    dims = replace(dims, text_tokens=text_tokens)
    _check_released_config(released_config, config=config, dims=dims, path=path)
    _compare(_on_meta(config, dims=dims), state=state, source=str(path))
    return config, dims, state


def from_state(
    config: AlignNetConfig, *, dims: AlignNetDims, state: StateDict, source: str = "the state dict"
) -> AlignNet:
    """Build an AlignNet from these tensors, in evaluation mode. Raises WeightsError if they don't fit.

    It keeps their dtype: call `.float()` to train one that was saved in bfloat16.
    """
    alignnet = _on_meta(config, dims=dims)
    _compare(alignnet, state=state, source=source)
    alignnet.load_state_dict(state, assign=True)
    return alignnet.eval()


def export_released(alignnet: AlignNet, path: str | Path, *, layout: Layout = "reference") -> Path:
    """Write a released layout, loadable by X2I's own scripts or by its ComfyUI nodes.

    Both are pickles of bare tensors: `reference` (`.bin`) is a state dict, `comfyui` (`.pt`) has it under `state_dict`,
    beside the arguments of the authors' class under `config`.
    """
    path = Path(path)
    state = portable(alignnet)
    content = state if layout == "reference" else {"config": _released_config(alignnet), "state_dict": state}
    with published(path, durable=True) as scratch:
        torch.save(content, scratch)
    return path


def read_weights(path: Path) -> object:
    """Load a weights file with loaders that run no code."""
    if not path.is_file():
        raise WeightsError(f"no AlignNet weights at {path}: give a .bin, .pt or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror or error}") from error
    except _DAMAGED as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it wants to run {wanted[1]}" if wanted else f"it is damaged or something else ({type(error).__name__})"
        )
        raise WeightsError(f"{path} can't be loaded as weights: {reason}; only tensors are taken") from error


def _unwrapped(content: object, *, path: Path) -> tuple[object, Mapping[str, Any]]:
    """Return the state dict inside a trainer's file, and the config beside it. DeepSpeed keeps it under `module`."""
    config: Mapping[str, Any] = {}
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, dict) or any(isinstance(value, Tensor) for value in content.values()):
            break
        inside = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
        if len(inside) > 1:
            raise WeightsError(
                f"{path} holds several state dicts: {', '.join(map(repr, inside))}; save the one to import"
            )
        if not inside:
            break
        config = content["config"] if isinstance(content.get("config"), dict) else config
        content = content[inside[0]]
    return content, config


def tensors_of(content: object, *, path: Path) -> StateDict:
    """Return the state dict without a wrapper's prefix, such as `module.`, `_orig_mod.` or a trainer's attribute."""
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}, not a state dict of AlignNet")
    state: StateDict = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds {type(value).__name__} under {key!r}, not a state dict of AlignNet")
        state[key] = value
    prefixes = [key.removesuffix(ANCHOR) for key in state if key == ANCHOR or key.endswith(f".{ANCHOR}")]
    bare = {key.removeprefix(prefixes[0]): value for key, value in state.items()} if prefixes else state
    if len(prefixes) > 1 or len(bare) != len(state):
        raise WeightsError(f"{path} holds several AlignNets, under {', '.join(map(repr, prefixes))}; save one alone")
    return bare


def _size(state: StateDict, key: str, *, axis: int, num_axes: int, path: Path) -> int:
    """Return the size of one axis of a tensor that must exist and have `num_axes` axes."""
    if key not in state:
        raise WeightsError(f"{path} is not an AlignNet: it lacks {key!r}")
    if state[key].dim() != num_axes:
        raise WeightsError(f"{path}: {key!r} has shape {tuple(state[key].shape)}, AlignNet's has {num_axes} axes")
    return state[key].shape[axis]


def _num_layers(state: StateDict, *, path: Path, otherwise: object) -> int:
    for key in ("cha_scale", "conv.weight"):
        if key in state:
            return _size(state, key, axis=1, num_axes=4, path=path)
    if type(otherwise) is not int or otherwise < 1:
        raise WeightsError(
            f"{path} holds neither 'conv.weight' nor 'cha_scale': if it is an AlignNet of fusion 'mean', give "
            "num_layers, the MLLM's layers plus one"
        )
    return otherwise


def _infer(state: StateDict, *, path: Path, num_layers: int) -> tuple[AlignNetConfig, AlignNetDims]:
    """Infer config and sizes from the tensors' names and shapes."""
    fusion: Fusion = "scale" if "cha_scale" in state else "conv" if "conv.weight" in state else "mean"
    blocks = {key.split(".")[2] for key in state if key.startswith("t5stack.block.")}
    dims = AlignNetDims(
        num_layers=num_layers,
        hidden_size=_size(state, "mlp.projector.0.weight", axis=1, num_axes=2, path=path),
        prompt_dim=_size(state, "mlp.projector.0.weight", axis=0, num_axes=2, path=path),
        pooled_dim=_size(state, "mlp.fc.1.weight", axis=0, num_axes=2, path=path),
    )
    if blocks:
        attention = "t5stack.block.0.layer.0.SelfAttention"
        heads = _size(state, f"{attention}.relative_attention_bias.weight", axis=1, num_axes=2, path=path)
        width = _size(state, f"{attention}.q.weight", axis=0, num_axes=2, path=path)
        dims = replace(dims, t5_heads=heads, t5_head_dim=width // max(1, heads))
    return AlignNetConfig(fusion=fusion, t5_layers=len(blocks), padding="reference"), dims


def _released_config(alignnet: AlignNet) -> dict[str, Any]:
    """Return the arguments of the authors' class. Those of the T5 stack are its defaults where there is none."""
    dims, fusion, layers = alignnet.dims, alignnet.config.fusion, alignnet.config.t5_layers
    return {
        "in_channels": dims.num_layers,
        "kernel_size": 5,
        "input_dim": dims.hidden_size,
        "output_dim0": dims.pooled_dim,
        "output_dim1": dims.prompt_dim,
        "num_layers": layers or 2,
        "num_heads": dims.t5_heads or max(1, dims.hidden_size // dims.t5_head_dim),
        "norm_eps": LAYER_NORM_EPS,
        "head_dim": dims.t5_head_dim,
        "use_t5": layers > 0,
        "use_scale": fusion == "scale",
        "use_cnn": fusion == "conv",
    }


def _check_released_config(
    released: Mapping[str, Any], *, config: AlignNetConfig, dims: AlignNetDims, path: Path
) -> None:
    """Require that a `.pt`'s config agrees with its tensors. Only the config holds the LayerNorm epsilon."""
    found = {
        "in_channels": dims.num_layers,
        "input_dim": dims.hidden_size,
        "output_dim0": dims.pooled_dim,
        "output_dim1": dims.prompt_dim,
        "use_scale": config.fusion == "scale",
        "use_t5": config.t5_layers > 0,
        "norm_eps": LAYER_NORM_EPS,
    }
    if config.fusion != "scale":  # the released code looks at use_cnn only where use_scale is off
        found["use_cnn"] = config.fusion == "conv"
    for key, value in found.items():
        if key in released and (type(released[key]) not in (bool, int, float) or released[key] != value):
            raise WeightsError(f"{path}: its config says {key}={released[key]!r}, its tensors need {value!r}")


def _on_meta(config: AlignNetConfig, *, dims: AlignNetDims) -> AlignNet:
    with torch.device("meta"):
        return AlignNet(config, dims=dims)


def _compare(alignnet: AlignNet, *, state: StateDict, source: str) -> None:
    """Require the same names and shapes, and floating point."""
    expected = alignnet.state_dict()
    if missing := sorted(expected.keys() - state.keys()):
        raise WeightsError(f"{source} is not this AlignNet: it lacks {', '.join(map(repr, missing[:3]))}")
    if unknown := sorted(state.keys() - expected.keys()):
        raise WeightsError(f"{source} is not this AlignNet: it also holds {', '.join(map(repr, unknown[:3]))}")
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape or not tensor.is_floating_point():
            raise WeightsError(
                f"{source}: {key!r} is {tensor.dtype} {tuple(tensor.shape)}, must be floating point "
                f"{tuple(expected[key].shape)}"
            )


def portable(alignnet: AlignNet) -> StateDict:
    """Copy the weights to contiguous CPU tensors, so that no file holds bytes outside of them."""
    return {
        key: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, tensor in alignnet.state_dict().items()
    }
