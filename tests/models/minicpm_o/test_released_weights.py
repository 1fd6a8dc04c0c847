"""The released weights' names and shapes, stated independently of the model's classes, at the true sizes.

No list of them was at hand: they are read off the authors' modelling code. Two things are known of the released files
themselves: what their code doesn't use of them without speech output are names that begin with `tts.`
(hiyouga/LlamaFactory, issues 6973 and 7169), and they hold 8.67 billion parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.models.minicpm_o.released import released_config
from x2i_platform.models.catalog import MLLMS
from x2i_platform.models.minicpm_o.configuration import MiniCPMOConfig
from x2i_platform.models.minicpm_o.modeling import MiniCPMOForConditionalGeneration, MiniCPMOModel

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def linear(name: str, wide: int, into: int, *, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (into, wide)
    if bias:
        yield f"{name}.bias", (into,)


def norm(name: str, width: int) -> Shapes:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def qwen2_7b() -> Shapes:
    """28 layers, 28 heads and 4 of keys and values, 128 wide; biases on queries, keys and values alone."""
    yield "llm.model.embed_tokens.weight", (151_700, 3584)
    for layer in range(28):
        name = f"llm.model.layers.{layer}"
        yield from linear(f"{name}.self_attn.q_proj", 3584, 28 * 128)
        yield from linear(f"{name}.self_attn.k_proj", 3584, 4 * 128)
        yield from linear(f"{name}.self_attn.v_proj", 3584, 4 * 128)
        yield from linear(f"{name}.self_attn.o_proj", 28 * 128, 3584, bias=False)
        yield from linear(f"{name}.mlp.gate_proj", 3584, 18_944, bias=False)
        yield from linear(f"{name}.mlp.up_proj", 3584, 18_944, bias=False)
        yield from linear(f"{name}.mlp.down_proj", 18_944, 3584, bias=False)
        yield f"{name}.input_layernorm.weight", (3584,)
        yield f"{name}.post_attention_layernorm.weight", (3584,)
    yield "llm.model.norm.weight", (3584,)
    yield "llm.lm_head.weight", (151_700, 3584)


def siglip_so400m() -> Shapes:
    """27 layers, patches of 14 x 14 pixels, a table of 70 x 70 positions, no pooling head."""
    yield "vpm.embeddings.patch_embedding.weight", (1152, 3, 14, 14)
    yield "vpm.embeddings.patch_embedding.bias", (1152,)
    yield "vpm.embeddings.position_embedding.weight", (70 * 70, 1152)
    for layer in range(27):
        name = f"vpm.encoder.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{name}.self_attn.{projection}", 1152, 1152)
        yield from linear(f"{name}.mlp.fc1", 1152, 4304)
        yield from linear(f"{name}.mlp.fc2", 4304, 1152)
        yield from norm(f"{name}.layer_norm1", 1152)
        yield from norm(f"{name}.layer_norm2", 1152)
    yield from norm("vpm.post_layernorm", 1152)


def resampler() -> Shapes:
    yield "resampler.query", (64, 3584)
    yield from linear("resampler.kv_proj", 1152, 3584, bias=False)
    yield "resampler.attn.in_proj_weight", (3 * 3584, 3584)
    yield "resampler.attn.in_proj_bias", (3 * 3584,)
    yield from linear("resampler.attn.out_proj", 3584, 3584)
    for name in ("ln_q", "ln_kv", "ln_post"):
        yield from norm(f"resampler.{name}", 3584)
    yield "resampler.proj", (3584, 3584)


def whisper_medium() -> Shapes:
    """The encoder: 24 layers, 80 mel bins, 1500 positions; keys have no bias."""
    yield "apm.conv1.weight", (1024, 80, 3)
    yield "apm.conv1.bias", (1024,)
    yield "apm.conv2.weight", (1024, 1024, 3)
    yield "apm.conv2.bias", (1024,)
    yield "apm.embed_positions.weight", (1500, 1024)
    for layer in range(24):
        name = f"apm.layers.{layer}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from linear(f"{name}.self_attn.{projection}", 1024, 1024, bias=projection != "k_proj")
        yield from linear(f"{name}.fc1", 1024, 4096)
        yield from linear(f"{name}.fc2", 4096, 1024)
        yield from norm(f"{name}.self_attn_layer_norm", 1024)
        yield from norm(f"{name}.final_layer_norm", 1024)
    yield from norm("apm.layer_norm", 1024)
    yield from linear("audio_projection_layer.linear1", 1024, 3584)
    yield from linear("audio_projection_layer.linear2", 3584, 3584)


RELEASED = dict([*qwen2_7b(), *siglip_so400m(), *resampler(), *whisper_medium()])


def speech_parameters() -> int:
    """Parameters of `tts.`: a Llama of 20 layers, 768 wide, its embeddings and heads, and a small audio codec."""
    layer = 4 * 768**2 + 3 * 768 * 3072 + 2 * 768
    llama = 32_000 * 768 + 20 * layer + 768
    projector = (3584 + 1) * 768 + (768 + 1) * 768
    embeddings = (4 * 626 + 21_178) * 768
    heads = 4 * (626 * 768 + 626)  # normalised weights: a direction and a length each
    block = (7 + 1) * 256 + 2 * 256 + (256 + 1) * 1024 + (1024 + 1) * 256 + 256

    def stack(wide: int, into: int) -> int:
        return (3 * wide + 1) * 128 + (3 * 128 + 1) * 256 + 12 * block + 256 * into

    down = (3 * 100 + 1) * 512 + (4 * 512 + 1) * 512
    quantiser = 2 * ((512 + 1) * 4 + (4 + 1) * 512)
    return (
        llama + projector + embeddings + heads + 100 + down + stack(512, 1024) + stack(512, 512) + 153_600 + quantiser
    )


@pytest.fixture(scope="module")
def config() -> MiniCPMOConfig:
    return MiniCPMOConfig(**released_config())


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def test_every_released_weight_has_its_place(config: MiniCPMOConfig) -> None:
    with torch.device("meta"):
        whole = MiniCPMOForConditionalGeneration(config)
    found = {name.removeprefix("model."): shape for name, shape in shapes_of(whole).items()}
    assert found == RELEASED


def test_below_the_head_names_are_the_released_ones(config: MiniCPMOConfig) -> None:
    with torch.device("meta"):
        body = MiniCPMOModel(config)
    assert shapes_of(body) == {name: shape for name, shape in RELEASED.items() if name != "llm.lm_head.weight"}


def test_parameters_add_up_to_those_published() -> None:
    ours = sum(map(math.prod, RELEASED.values()))
    entry = MLLMS["openbmb/MiniCPM-o-2_6"]
    assert entry.parameters == ours
    assert entry.lm_head_parameters == math.prod(RELEASED["llm.lm_head.weight"])
    assert f"{(ours + speech_parameters()) / 1e9:.2f}" == "8.67"


def test_the_config_says_which_heads_the_resampler_has(config: MiniCPMOConfig) -> None:
    with torch.device("meta"):
        body: Any = MiniCPMOModel(config)
    assert (body.resampler.attn.num_heads, body.apm.chunk) == (28, 50)
