"""Facts of one model, as the catalogue has them, and how they are read from a local folder.

They are read from its config.json files and the headers of its safetensors files. Imports no torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from x2i_platform.config import Fusion
from x2i_platform.errors import WeightsError
from x2i_platform.models.dims import DiTDims, MLLMDims, T5Dims
from x2i_platform.models.dits import architecture_named
from x2i_platform.models.dits.flux import Flux
from x2i_platform.models.families import FAMILIES, TEXT_ONLY


@dataclass(frozen=True)
class TeacherEntry:
    """A text-to-image pipeline."""

    model: str
    dit: DiTDims
    t5: T5Dims
    dit_parameters: int
    t5_parameters: int
    clip_parameters: int
    """Of all its CLIP encoders."""
    vae_parameters: int
    licence: str | None = None
    """As its authors state it: a reminder, not advice."""
    transformer: str = Flux.transformer
    """Class of its DiT, the key of `dits.ARCHITECTURES`."""


@dataclass(frozen=True)
class MLLMEntry:
    """A multimodal LLM."""

    model: str
    family: str
    """`model_type` of its config.json."""
    dims: MLLMDims
    parameters: int
    lm_head_parameters: int = 0
    """Parameters of the LM head, which is not needed; 0 if the head shares the embedding's weights."""
    fusion: Fusion | None = None
    """AlignNet's fusion for this MLLM in the released training code; None if none was released."""
    licence: str | None = None
    """As its authors state it: a reminder, not advice."""


def read_config(folder: Path, *, file: str = "config.json") -> dict[str, Any]:
    """Read the config of a model or component folder. Raises WeightsError if it is missing or isn't JSON."""
    path = folder / file
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing: the model isn't whole, or isn't of this kind") from error
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} can't be read: {error}") from error


def read_teacher(model: str, folder: Path) -> TeacherEntry:
    """Read the facts of a pipeline's folder. Raises WeightsError if it isn't a pipeline with a known DiT."""
    dit, vae = read_config(folder / "transformer"), read_config(folder / "vae")
    kind = architecture_named(dit.get("_class_name", Flux.transformer), where=folder / "transformer")
    t5 = read_config(folder / kind.t5)
    try:
        return TeacherEntry(
            model=model,
            transformer=kind.transformer,
            dit=kind.dims(dit, latent_scale=2 ** (len(vae["block_out_channels"]) - 1)),
            t5=T5Dims(t5["num_layers"], t5["d_model"], t5["d_ff"], t5["num_heads"] * t5["d_kv"]),
            dit_parameters=_count_parameters(folder / "transformer", without=kind.tables),
            t5_parameters=_count_parameters(folder / kind.t5),
            clip_parameters=sum(_count_parameters(folder / name) for name in kind.clips),
            vae_parameters=_count_parameters(folder / "vae"),
        )
    except KeyError as error:
        raise WeightsError(f"{folder} isn't a {kind.pipeline}: no {error} in the config.json of a component") from error


def read_mllm(model: str, folder: Path) -> MLLMEntry:
    """Read the facts of an MLLM's folder. Raises WeightsError if its config.json lacks a decoder's sizes."""
    config = read_config(folder)
    family = FAMILIES.get(config.get("model_type", ""), TEXT_ONLY)
    # Qwen2.5-VL's published config has the text model's sizes at the top level; others have them nested.
    config = {**config, **config.get("thinker_config", {}), "model_type": config.get("model_type")}
    text = config.get("text_config") or config.get("llm_config") or config
    try:
        heads = text["num_attention_heads"]
        return MLLMEntry(
            model=model,
            family=config["model_type"],
            dims=MLLMDims(
                num_layers=text["num_hidden_layers"],
                hidden_size=text["hidden_size"],
                num_heads=heads,
                num_kv_heads=text.get("num_key_value_heads") or heads,
                head_dim=text.get("head_dim") or text["hidden_size"] // heads,
                intermediate_size=text["intermediate_size"],
            ),
            parameters=_count_parameters(folder, without=family.unused),
            lm_head_parameters=_count_parameters(folder, part="lm_head."),
        )
    except KeyError as error:
        raise WeightsError(f"{folder / 'config.json'} has no {error}; a decoder's sizes can't be read") from error


def _count_parameters(folder: Path, *, part: str = "", without: tuple[str, ...] = ()) -> int:
    """Count the parameters of a folder's safetensors files, from their headers.

    Counted are those whose names have `part` in them and none of `without` in front.
    """
    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="numpy") as file:
                names = [name for name in file.keys() if part in name and not name.startswith(without)]  # noqa: SIM118
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        except SafetensorError:
            raise WeightsError(f"{path} is damaged: its header isn't that of a safetensors file") from None
    return total
