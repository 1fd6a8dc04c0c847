"""Against torch's own counter, and against the figures of FLUX.1 at the paper's size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.random_models import THREE_CAPTIONS
from x2i_platform.config import AlignNetConfig, Fusion
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.catalog import dit_dims, mllm_dims, teacher_entry
from x2i_platform.models.dims import DiTDims
from x2i_platform.models.flops import alignnet, dit_backward_to_activations, dit_forward, mllm_prefill, t5_forward
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders

TERA = 1e12


def counted(work: Callable[[], Any]) -> int:
    """Operations that torch counts; attention as plain products, since its counter knows no fused kernel of the CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def call_flux(dit: Any, *, image_tokens: int, text_tokens: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    device = dit.device
    leaves = [
        torch.randn(1, text_tokens, dit.config.joint_attention_dim, device=device, requires_grad=True),
        torch.randn(1, dit.config.pooled_projection_dim, device=device, requires_grad=True),
    ]
    velocity = dit(
        hidden_states=torch.randn(1, image_tokens, dit.config.in_channels, device=device),
        encoder_hidden_states=leaves[0],
        pooled_projections=leaves[1],
        timestep=torch.ones(1, device=device),
        guidance=torch.ones(1, device=device),
        img_ids=torch.zeros(image_tokens, 3, device=device),
        txt_ids=torch.zeros(text_tokens, 3, device=device),
        return_dict=False,
    )[0]
    return velocity, leaves


def counted_passes(dit: Any, *, image_tokens: int, text_tokens: int) -> tuple[int, int]:
    passed: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
    forward = counted(lambda: passed.append(call_flux(dit, image_tokens=image_tokens, text_tokens=text_tokens)))
    velocity, leaves = passed.pop()
    return forward, counted(lambda: torch.autograd.grad(velocity.sum(), leaves))


@pytest.mark.parametrize(
    ("image_tokens", "text_tokens", "forward", "backward"),
    [(4096, 512, 74.4, 89.2), (1024, 512, 21.5, 23.2), (1024, 128, 15.8, 16.8)],
)
def test_flux_at_the_papers_sizes(image_tokens: int, text_tokens: int, forward: float, backward: float) -> None:
    tokens = {"image_tokens": image_tokens, "text_tokens": text_tokens}
    assert dit_forward(DiTDims(), **tokens) / TERA == pytest.approx(forward, rel=0.005)
    assert dit_backward_to_activations(DiTDims(), **tokens) / TERA == pytest.approx(backward, rel=0.005)


@pytest.mark.slow
def test_true_flux_against_torchs_counter() -> None:
    """On the meta device: shapes without numbers."""
    tokens = {"image_tokens": 4096, "text_tokens": 512}
    with torch.device("meta"):
        dit = diffusers.FluxTransformer2DModel(guidance_embeds=True).requires_grad_(False)
    forward, backward = counted_passes(dit, **tokens)
    assert dit_forward(DiTDims(), **tokens) == forward
    assert dit_backward_to_activations(DiTDims(), **tokens) == backward


def test_the_miniature_dit_against_torchs_counter(teacher: Teacher) -> None:
    dims, tokens = dit_dims("mini:random-flux"), {"image_tokens": 16, "text_tokens": 32}
    forward, backward = counted_passes(teacher.dit, **tokens)
    assert dit_forward(dims, **tokens) == forward
    assert dit_backward_to_activations(dims, **tokens) == backward


def call_sd3(dit: Any, *, side: int, text_tokens: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    leaves = [
        torch.randn(1, text_tokens, dit.config.joint_attention_dim, device=dit.device, requires_grad=True),
        torch.randn(1, dit.config.pooled_projection_dim, device=dit.device, requires_grad=True),
    ]
    velocity = dit(
        hidden_states=torch.randn(1, dit.config.in_channels, side, side, device=dit.device),
        encoder_hidden_states=leaves[0],
        pooled_projections=leaves[1],
        timestep=torch.ones(1, device=dit.device),
        return_dict=False,
    )[0]
    return velocity, leaves


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("mini:random-sd3", 8),
        pytest.param("stabilityai/stable-diffusion-3.5-large", 128, marks=pytest.mark.slow),
        pytest.param("stabilityai/stable-diffusion-3.5-medium", 128, marks=pytest.mark.slow),
    ],
)
def test_sd3_against_torchs_counter(name: str, side: int) -> None:
    """On the meta device, whole blocks: second attentions, and a last block whose text ends in it."""
    dims = dit_dims(name)
    heads = dims.inner_dim // 64 or 1
    sizes = {"num_attention_heads": heads, "attention_head_dim": dims.inner_dim // heads}
    with torch.device("meta"):
        dit = diffusers.SD3Transformer2DModel(
            **sizes,
            num_layers=dims.num_double,
            joint_attention_dim=dims.joint_dim,
            caption_projection_dim=dims.inner_dim,
            pooled_projection_dim=dims.pooled_dim,
            dual_attention_layers=dims.dual_blocks,
            qk_norm="rms_norm",
        ).requires_grad_(False)
    passed: list[tuple[torch.Tensor, list[torch.Tensor]]] = []
    tokens = {"image_tokens": (side // 2) ** 2, "text_tokens": 77 + 32}
    forward = counted(lambda: passed.append(call_sd3(dit, side=side, text_tokens=tokens["text_tokens"])))
    velocity, leaves = passed.pop()
    backward = counted(lambda: torch.autograd.grad(velocity.sum(), leaves))
    assert dit_forward(dims, **tokens) == forward
    assert dit_backward_to_activations(dims, **tokens) == backward


def test_t5_against_torchs_counter(text_encoders: TextEncoders) -> None:
    t5 = text_encoders._pipeline.text_encoder_2
    ids = torch.zeros(1, 32, dtype=torch.long)
    assert t5_forward(teacher_entry("mini:random-flux").t5, tokens=32) == counted(lambda: t5(ids))


def test_prefill_against_torchs_counter(mllm: MLLM) -> None:
    tokens = len(mllm.tokenize(THREE_CAPTIONS[:1])[0])
    expected = counted(lambda: mllm.encode(THREE_CAPTIONS[:1]))
    assert mllm_prefill(mllm_dims("mini:random-qwen2.5-vl"), tokens=tokens) == expected


@pytest.mark.parametrize(
    ("fusion", "t5_layers", "t5_heads"), [("conv", 0, None), ("conv", 2, None), ("conv", 2, 4), ("scale", 0, None)]
)
def test_alignnet_against_torchs_counter(fusion: Fusion, t5_layers: int, t5_heads: int | None) -> None:
    config = AlignNetConfig(fusion=fusion, t5_layers=t5_layers, t5_heads=t5_heads)
    mllm, dit = mllm_dims("mini:random-qwen2.5-vl"), dit_dims("mini:random-flux")
    dims = AlignNetDims(
        num_layers=mllm.num_states, hidden_size=mllm.hidden_size, text_tokens=32, prompt_dim=64, pooled_dim=32
    )
    if t5_heads:
        dims = replace(dims, t5_heads=t5_heads, t5_head_dim=mllm.hidden_size // t5_heads)
    network = AlignNet(config, dims=dims)
    states_BCSH = torch.randn(1, dims.num_layers, 32, dims.hidden_size)
    expected = counted(lambda: network(states_BCSH, mask_BS=torch.ones(1, 32, dtype=torch.bool)))
    assert alignnet(config, mllm=mllm, dit=dit, tokens=32) == expected
