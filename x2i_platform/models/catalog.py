"""Sizes and facts of models, without loading their weights: for `plan` and for the list of `models`.

They come from a local folder (its config.json files and the headers of its safetensors), else from the tables here and
in `teachers`, else from the local Hugging Face cache. Nothing is downloaded, and torch is not imported. The parameters
in the tables were counted by building each architecture from its published config on torch's meta device.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from x2i_platform.errors import ConfigError
from x2i_platform.models.dims import DiTDims, MLLMDims
from x2i_platform.models.entries import MLLMEntry, TeacherEntry, read_mllm, read_teacher
from x2i_platform.models.teachers import TEACHERS

__all__ = ["TEACHERS"]

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
            model="Qwen/Qwen2.5-Omni-7B",
            family="qwen2_5_omni",
            dims=MLLMDims(28, 3584, 28, 4, 128, 18944),
            parameters=8_931_813_888,
            lm_head_parameters=544_997_376,
            licence="apache-2.0",
        ),
        MLLMEntry(
            model="Qwen/Qwen3-VL-4B-Instruct",
            family="qwen3_vl",
            dims=MLLMDims(36, 2560, 32, 8, 128, 9728),
            parameters=4_437_815_808,
            licence="apache-2.0",
        ),
        MLLMEntry(
            model="Qwen/Qwen3-VL-8B-Instruct",
            family="qwen3_vl",
            dims=MLLMDims(36, 4096, 32, 8, 128, 12288),
            parameters=8_767_123_696,
            lm_head_parameters=622_329_856,
            licence="apache-2.0",
        ),
        MLLMEntry(
            model="OpenGVLab/InternVL3-1B-hf",
            family="internvl",
            dims=MLLMDims(24, 896, 14, 2, 64, 4864),
            parameters=938_119_296,
            lm_head_parameters=135_899_904,
        ),
        MLLMEntry(
            model="openbmb/MiniCPM-o-2_6",
            family="minicpmo",
            dims=MLLMDims(28, 3584, 28, 4, 128, 18944),
            parameters=8_423_157_488,  # without those that speak
            lm_head_parameters=543_692_800,
            fusion="conv",
            licence="MiniCPM Model License (commercial use after registration)",
        ),
        MLLMEntry(
            model="HuggingFaceTB/SmolLM2-135M-Instruct",
            family="llama",
            dims=MLLMDims(30, 576, 9, 3, 64, 1536),
            parameters=134_515_008,
            licence="apache-2.0",
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
            model="mini:qwen2.5-omni",
            family="qwen2_5_omni_thinker",
            dims=MLLMDims(4, 128, 4, 2, 32, 384),
            parameters=2_630_016,
            lm_head_parameters=173_824,
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
        MLLMEntry(
            model="mini:random-qwen2.5-omni",
            family="qwen2_5_omni_thinker",
            dims=MLLMDims(3, 64, 4, 2, 16, 128),
            parameters=286_752,
            lm_head_parameters=33_088,
            licence="apache-2.0",
        ),
        MLLMEntry(
            model="mini:random-qwen3-vl",
            family="qwen3_vl",
            dims=MLLMDims(4, 64, 4, 2, 16, 128),
            parameters=365_824,
            lm_head_parameters=32_960,
            licence="apache-2.0",
        ),
        MLLMEntry(
            model="mini:random-internvl",
            family="internvl",
            dims=MLLMDims(3, 64, 4, 2, 16, 128),
            parameters=226_336,
            lm_head_parameters=32_896,
            licence="apache-2.0",
        ),
        MLLMEntry(
            model="mini:random-minicpm-v",
            family="minicpmv4_6",
            dims=MLLMDims(4, 64, 4, 2, 16, 128),
            parameters=356_432,
            lm_head_parameters=33_152,
            licence="apache-2.0",
        ),
        MLLMEntry(
            model="mini:random-minicpm-o",
            family="minicpmo",
            dims=MLLMDims(3, 256, 4, 2, 64, 512),
            parameters=2_771_840,
            lm_head_parameters=135_168,
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

    Raises ConfigError for an unknown model, and WeightsError for a folder that isn't a pipeline with a known DiT.
    """
    folder = _local_folder(model, revision=revision, known=TEACHERS, file="transformer/config.json")
    return read_teacher(model, folder) if folder else TEACHERS[model]


def mllm_entry(model: str, *, revision: str | None = None) -> MLLMEntry:
    """Return the facts about an MLLM: a local folder, one of MLLMS, or a cached hub id. Raises like `teacher_entry`."""
    folder = _local_folder(model, revision=revision, known=MLLMS, file="config.json")
    return read_mllm(model, folder) if folder else MLLMS[model]


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
