from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from x2i_platform.errors import ConfigError, WeightsError
from x2i_platform.models import catalog
from x2i_platform.models.catalog import MLLMS, TEACHERS, dit_dims, mllm_dims, mllm_entry, teacher_entry
from x2i_platform.models.dims import MLLMDims
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.weights import locate

FLUX = "black-forest-labs/FLUX.1-dev"


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", [name for name in TEACHERS if name.startswith("mini:")])
def test_the_table_describes_the_miniature_teachers(name: str) -> None:
    assert replace(teacher_entry(str(locate(name))), model=name, licence="apache-2.0") == teacher_entry(name)


@pytest.mark.parametrize("name", [name for name in MLLMS if name.startswith("mini:")])
def test_the_table_describes_the_miniature_mllms(name: str) -> None:
    assert replace(mllm_entry(str(locate(name))), model=name, licence="apache-2.0") == mllm_entry(name)


def test_miniature_sizes_are_those_of_the_loaded_parts(teacher: Teacher, mllm: MLLM) -> None:
    dims = dit_dims("mini:random-flux")
    assert dims.tap_names == teacher.tap_names
    assert dims.num_image_tokens(64) == teacher.num_image_tokens
    assert (dims.inner_dim, dims.joint_dim, dims.pooled_dim) == (96, 64, 32)
    assert mllm_dims("mini:random-qwen2.5-vl").num_states == mllm.num_layers_plus_one
    assert mllm_entry("mini:random-qwen2.5-vl").parameters >= num_parameters(mllm.model)


@pytest.mark.parametrize("name", [FLUX, "black-forest-labs/FLUX.1-schnell"])
def test_flux_parameters_are_those_of_the_architecture(name: str) -> None:
    entry = TEACHERS[name]
    with torch.device("meta"):
        dit = diffusers.FluxTransformer2DModel(guidance_embeds=entry.dit.guidance_embeds)
        t5 = transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=32128,
                d_model=entry.t5.d_model,
                d_kv=64,
                num_heads=entry.t5.attention_dim // 64,
                d_ff=entry.t5.d_ff,
                num_layers=entry.t5.num_layers,
                feed_forward_proj="gated-gelu",
            )
        )
    assert num_parameters(dit) == entry.dit_parameters
    assert num_parameters(t5) == entry.t5_parameters
    assert (dit.inner_dim, len(dit.transformer_blocks), len(dit.single_transformer_blocks)) == (3072, 19, 38)
    assert len(entry.dit.tap_names) == 76
    assert entry.dit.num_image_tokens(1024) == 4096


@pytest.mark.parametrize(
    ("name", "vocabulary"), [("Qwen/Qwen2.5-VL-3B-Instruct", 151936), ("Qwen/Qwen2.5-VL-7B-Instruct", 152064)]
)
def test_qwen_parameters_are_those_of_the_architecture(name: str, vocabulary: int) -> None:
    entry = MLLMS[name]
    dims = entry.dims
    text = {
        "vocab_size": vocabulary,
        "hidden_size": dims.hidden_size,
        "intermediate_size": dims.intermediate_size,
        "num_hidden_layers": dims.num_layers,
        "num_attention_heads": dims.num_heads,
        "num_key_value_heads": dims.num_kv_heads,
    }
    vision = {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": dims.hidden_size}
    with torch.device("meta"):
        base = transformers.Qwen2_5_VLModel(transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    assert num_parameters(base) == entry.parameters - entry.lm_head_parameters
    assert entry.lm_head_parameters in (0, vocabulary * dims.hidden_size)
    assert dims.head_dim * dims.num_heads == dims.hidden_size


def omni(dims: MLLMDims) -> Any:
    vision, audio = {"hidden_size": 1280, "out_hidden_size": dims.hidden_size}, {"output_dim": dims.hidden_size}
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config=_text(dims, vocabulary=152064), vision_config=vision, audio_config=audio
    )
    return transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)


def qwen3_vl(dims: MLLMDims, *, tied: bool, vision: dict[str, Any]) -> Any:
    config = transformers.Qwen3VLConfig(
        text_config=_text(dims, vocabulary=151936),
        vision_config={**vision, "out_hidden_size": dims.hidden_size},
        tie_word_embeddings=tied,
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


def internvl(dims: MLLMDims) -> Any:
    text = {"model_type": "qwen2", **_text(dims, vocabulary=151674), "tie_word_embeddings": False}
    return transformers.InternVLForConditionalGeneration(
        transformers.InternVLConfig(text_config=text, tie_word_embeddings=False)
    )


def llama(dims: MLLMDims) -> Any:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**_text(dims, vocabulary=49152), tie_word_embeddings=True)
    )


def _text(dims: MLLMDims, *, vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": dims.hidden_size,
        "intermediate_size": dims.intermediate_size,
        "num_hidden_layers": dims.num_layers,
        "num_attention_heads": dims.num_heads,
        "num_key_value_heads": dims.num_kv_heads,
        "head_dim": dims.head_dim,
    }


SMALL_VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
PUBLISHED: dict[str, Callable[[MLLMDims], Any]] = {
    "Qwen/Qwen2.5-Omni-7B": omni,
    "Qwen/Qwen3-VL-4B-Instruct": partial(qwen3_vl, tied=True, vision=SMALL_VISION),
    "Qwen/Qwen3-VL-8B-Instruct": partial(qwen3_vl, tied=False, vision={}),
    "OpenGVLab/InternVL3-1B-hf": internvl,
    "HuggingFaceTB/SmolLM2-135M-Instruct": llama,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_other_families_are_those_of_the_architecture(name: str) -> None:
    entry = MLLMS[name]
    with torch.device("meta"):
        whole = PUBLISHED[name](entry.dims)
    assert num_parameters(whole) == entry.parameters
    assert num_parameters(whole.model) == entry.parameters - entry.lm_head_parameters


def test_reference_shapes_and_fusions() -> None:
    """The table of the reference: layers + 1, width, fusion."""
    found = {name: (entry.dims.num_states, entry.dims.hidden_size, entry.fusion) for name, entry in MLLMS.items()}
    assert found["Qwen/Qwen2.5-VL-3B-Instruct"] == (37, 2048, "conv")
    assert found["Qwen/Qwen2.5-VL-7B-Instruct"] == (29, 3584, "conv")
    assert found["OpenGVLab/InternVL2_5-4B"] == (37, 2048, "conv")
    assert found["OpenGVLab/InternVL2_5-1B"] == (25, 896, "scale")


def test_a_config_with_the_text_sizes_at_the_top_is_read_too(tmp_path: Path) -> None:
    """The form in which Qwen2.5-VL was published."""
    published = {
        "model_type": "qwen2_5_vl",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "vision_config": {"hidden_size": 1280},
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    assert mllm_dims(str(tmp_path)) == MLLMS["Qwen/Qwen2.5-VL-7B-Instruct"].dims


@pytest.mark.parametrize("name", ["someone/flux-finetune", "no such/model at all", "/no/such/folder"])
def test_an_unknown_model_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"sizes of '{name}' aren't known: give a local folder or one of black-forest-labs/"
    ):
        teacher_entry(name)
    with pytest.raises(ConfigError, match=r"Qwen2\.5-VL-3B"):
        mllm_entry(name)


def test_a_misspelt_id_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'black-forest-labs/FLUX\.1-dev'"):
        dit_dims("black-forest-labs/FLUX1-dev")


def test_a_folder_of_another_kind_is_refused(qwen_folder: Path, flux_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"transformer/config\.json is missing"):
        teacher_entry(str(qwen_folder))
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        mllm_entry(str(flux_folder))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 768}')
    with pytest.raises(WeightsError, match="has no 'num_attention_heads'"):
        mllm_entry(str(tmp_path))


def test_a_cached_hub_model_is_read(flux_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known because it was downloaded once, though no table names it."""
    asked = []

    def cached(model: str, file: str, *, revision: str | None) -> str:
        asked.append((model, file, revision))
        return str(flux_folder / file)

    monkeypatch.setattr(catalog, "try_to_load_from_cache", cached)
    assert dit_dims("someone/flux-finetune", revision="v2") == dit_dims("mini:random-flux")
    assert asked == [("someone/flux-finetune", "transformer/config.json", "v2")]


def test_planning_modules_load_no_torch() -> None:
    program = (
        "import sys; from x2i_platform.models import catalog, flops, taps; "
        "catalog.dit_dims('mini:flux'); sys.exit(bool({'torch', 'transformers', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
