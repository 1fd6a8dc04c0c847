"""Sizes and facts of models, without loading their weights: for `plan` and for the list of `models`.

They come from a local folder (its config.json files and the headers of its safetensors), else from the tables below,
else from the local Hugging Face cache. Nothing is downloaded, and torch is not imported. The parameters in the tables
were counted by building each architecture from its published config on torch's meta device.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from x2i_platform.config import Fusion
from x2i_platform.errors import ConfigError, WeightsError
from x2i_platform.models.dims import DiTDims, MLLMDims, T5Dims


@dataclass(frozen=True)
class Family:
    """How the inputs of one family of MLLMs differ."""

    whole: str
    """Name of the transformers class that includes the LM head."""
    token_types: bool = False
    """Whether the forward takes images, videos and `mm_token_type_ids` (text 0, image 1, video 2). Without the types
    Qwen2.5-VL silently gives vision tokens wrong positions."""


FAMILIES: Mapping[str, Family] = {
    "qwen2_5_vl": Family(whole="Qwen2_5_VLForConditionalGeneration", token_types=True),
}
"""Families that also take images and videos, by the `model_type` of their config.json."""
TEXT_ONLY = Family(whole="AutoModelForCausalLM")
"""Any causal language model of transformers."""


@dataclass(frozen=True)
class TeacherEntry:
    """A text-to-image pipeline."""

    model: str
    dit: DiTDims
    t5: T5Dims
    dit_parameters: int
    t5_parameters: int
    clip_parameters: int
    vae_parameters: int
    licence: str | None = None
    """As its authors state it: a reminder, not advice."""


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


TEACHERS: Mapping[str, TeacherEntry] = {
    entry.model: entry
    for entry in (
        TeacherEntry(
            model="black-forest-labs/FLUX.1-dev",
            dit=DiTDims(),
            t5=T5Dims(),
            dit_parameters=11_901_408_320,
            t5_parameters=4_762_310_656,
            clip_parameters=123_060_480,
            vae_parameters=83_819_683,
            licence="FLUX.1 [dev] Non-Commercial License",
        ),
        TeacherEntry(
            model="black-forest-labs/FLUX.1-schnell",
            dit=DiTDims(guidance_embeds=False),
            t5=T5Dims(),
            dit_parameters=11_891_178_560,
            t5_parameters=4_762_310_656,
            clip_parameters=123_060_480,
            vae_parameters=83_819_683,
            licence="apache-2.0",
        ),
        TeacherEntry(
            model="mini:flux",
            dit=DiTDims(2, 4, inner_dim=128, joint_dim=128, pooled_dim=64, guidance_embeds=False),
            t5=T5Dims(num_layers=3, d_model=128, d_ff=256, attention_dim=128),
            dit_parameters=2_316_864,
            t5_parameters=525_824,
            clip_parameters=197_760,
            vae_parameters=721_331,
            licence="apache-2.0",
        ),
        TeacherEntry(
            model="mini:random-flux",
            dit=DiTDims(num_double=2, num_single=3, inner_dim=96, joint_dim=64, pooled_dim=32),
            t5=T5Dims(num_layers=2, d_model=64, d_ff=128, attention_dim=64),
            dit_parameters=1_205_296,
            t5_parameters=101_824,
            clip_parameters=41_824,
            vae_parameters=271_379,
            licence="apache-2.0",
        ),
    )
}

MLLMS: Mapping[str, MLLMEntry] = {
    entry.model: entry
    for entry in (
        MLLMEntry(
            model="Qwen/Qwen2.5-VL-3B-Instruct",
            family="qwen2_5_vl",
            dims=MLLMDims(36, 2048, 16, 2, 128, 11008),
            parameters=3_754_622_976,
            fusion="conv",
            licence="Qwen Research License (non-commercial)",
        ),
        MLLMEntry(
            model="Qwen/Qwen2.5-VL-7B-Instruct",
            family="qwen2_5_vl",
            dims=MLLMDims(28, 3584, 28, 4, 128, 18944),
            parameters=8_292_166_656,
            lm_head_parameters=544_997_376,
            fusion="conv",
            licence="apache-2.0",
        ),
        MLLMEntry(
            model="OpenGVLab/InternVL2_5-4B",
            family="internvl_chat",
            dims=MLLMDims(36, 2048, 16, 2, 128, 11008),
            parameters=3_712_564_224,
            lm_head_parameters=310_628_352,
            fusion="conv",
        ),
        MLLMEntry(
            model="OpenGVLab/InternVL2_5-1B",
            family="internvl_chat",
            dims=MLLMDims(24, 896, 14, 2, 64, 4864),
            parameters=938_119_296,
            lm_head_parameters=135_899_904,
            fusion="scale",
        ),
        MLLMEntry(
            model="mini:qwen2.5-vl",
            family="qwen2_5_vl",
            dims=MLLMDims(4, 128, 4, 2, 32, 384),
            parameters=2_008_832,
            lm_head_parameters=173_440,
            licence="apache-2.0",
        ),
        MLLMEntry(
            model="mini:random-qwen2.5-vl",
            family="qwen2_5_vl",
            dims=MLLMDims(4, 64, 4, 2, 16, 128),
            parameters=298_080,
            lm_head_parameters=32_960,
            licence="apache-2.0",
        ),
    )
}


def dit_dims(model: str, *, revision: str | None = None) -> DiTDims:
    """Return the sizes of the teacher's DiT without loading it. Raises like `teacher_entry`."""
    return teacher_entry(model, revision=revision).dit


def mllm_dims(model: str, *, revision: str | None = None) -> MLLMDims:
    """Return the sizes of the MLLM without loading it. Raises like `mllm_entry`."""
    return mllm_entry(model, revision=revision).dims


def teacher_entry(model: str, *, revision: str | None = None) -> TeacherEntry:
    """Return the facts about a teacher: a local folder, one of TEACHERS, or a cached hub id.

    Raises ConfigError for an unknown model, and WeightsError for a folder that isn't a FLUX pipeline.
    """
    folder = _local_folder(model, revision=revision, known=TEACHERS, file="transformer/config.json")
    return _read_teacher(model, folder) if folder else TEACHERS[model]


def mllm_entry(model: str, *, revision: str | None = None) -> MLLMEntry:
    """Return the facts about an MLLM: a local folder, one of MLLMS, or a cached hub id. Raises like `teacher_entry`."""
    folder = _local_folder(model, revision=revision, known=MLLMS, file="config.json")
    return _read_mllm(model, folder) if folder else MLLMS[model]


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a model or component folder. Raises WeightsError if it is missing or isn't JSON."""
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is missing: the model isn't whole, or isn't of this kind") from error
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} can't be read: {error}") from error


def _local_folder(model: str, *, revision: str | None, known: Iterable[str], file: str) -> Path | None:
    """Return the folder to read from, or None for a model of the tables."""
    if (folder := Path(model).expanduser()).is_dir():
        return folder
    if model in known:
        return None
    try:
        cached = try_to_load_from_cache(model, file, revision=revision)
    except ValueError:  # not the form of a hub id
        cached = None
    if isinstance(cached, str):
        return Path(cached.removesuffix(file))
    nearest = difflib.get_close_matches(model, known, n=1, cutoff=0.8)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ConfigError(f"sizes of {model!r} aren't known: give a local folder or one of {', '.join(known)}{hint}")


def _read_teacher(model: str, folder: Path) -> TeacherEntry:
    dit, t5 = read_config(folder / "transformer"), read_config(folder / "text_encoder_2")
    vae = read_config(folder / "vae")
    try:
        return TeacherEntry(
            model=model,
            dit=DiTDims(
                num_double=dit["num_layers"],
                num_single=dit["num_single_layers"],
                inner_dim=dit["num_attention_heads"] * dit["attention_head_dim"],
                in_channels=dit["in_channels"],
                joint_dim=dit["joint_attention_dim"],
                pooled_dim=dit["pooled_projection_dim"],
                guidance_embeds=dit["guidance_embeds"],
                latent_scale=2 ** (len(vae["block_out_channels"]) - 1),
            ),
            t5=T5Dims(t5["num_layers"], t5["d_model"], t5["d_ff"], t5["num_heads"] * t5["d_kv"]),
            dit_parameters=_count_parameters(folder / "transformer"),
            t5_parameters=_count_parameters(folder / "text_encoder_2"),
            clip_parameters=_count_parameters(folder / "text_encoder"),
            vae_parameters=_count_parameters(folder / "vae"),
        )
    except KeyError as error:
        raise WeightsError(f"{folder} isn't a FLUX pipeline: no {error} in the config.json of a component") from error


def _read_mllm(model: str, folder: Path) -> MLLMEntry:
    config = read_config(folder)
    # Qwen2.5-VL's published config has the text model's sizes at the top level; a saved one has them nested.
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
            parameters=_count_parameters(folder),
            lm_head_parameters=_count_parameters(folder, prefix="lm_head."),
        )
    except KeyError as error:
        raise WeightsError(f"{folder / 'config.json'} has no {error}; a decoder's sizes can't be read") from error


def _count_parameters(folder: Path, *, prefix: str = "") -> int:
    """Count the parameters whose names start with `prefix`, from the headers of a folder's safetensors files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="numpy") as file:
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no dict
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        except SafetensorError:
            raise WeightsError(f"{path} is damaged: its header isn't that of a safetensors file") from None
    return total
