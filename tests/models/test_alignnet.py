"""AlignNet's sizes, its maths against plain tensor operations, and what each padding does."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from x2i_platform.config import AlignNetConfig, Fusion, Padding
from x2i_platform.errors import InputError, WeightsError
from x2i_platform.models.alignnet import AlignNet, AlignNetDims, pad_states
from x2i_platform.models.conditioning import Conditioning

DIMS = AlignNetDims(4, 24, text_tokens=10, prompt_dim=32, pooled_dim=6, t5_head_dim=8)
FUSIONS = ("conv", "scale", "mean")


def make(**options: Any) -> AlignNet:
    return AlignNet(AlignNetConfig(**options), dims=DIMS).double().eval()


def make_states(*lengths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, length, 24, generator=generator, dtype=torch.float64) for length in lengths]


def run_on(alignnet: AlignNet, states: list[Tensor]) -> Conditioning:
    states_BCSH, mask_BS = pad_states(states, text_tokens=10, padding=alignnet.config.padding)
    conditioning: Conditioning = alignnet(states_BCSH, mask_BS=mask_BS)
    return conditioning


def by_hand(alignnet: AlignNet, fused_BSH: Tensor) -> tuple[Tensor, Tensor]:
    """Prompt tokens, and what of each enters the pooled mean, by the formula of the paper's released network."""
    p = dict(alignnet.named_parameters())
    mean, variance = fused_BSH.mean(-1, keepdim=True), fused_BSH.var(-1, keepdim=True, unbiased=False)
    normed = (fused_BSH - mean) / (variance + 1e-6).sqrt() * p["mlp.layernorm.weight"] + p["mlp.layernorm.bias"]
    tokens = F.gelu(normed @ p["mlp.projector.0.weight"].T) @ p["mlp.projector.2.weight"].T
    return tokens, F.gelu(tokens) @ p["mlp.fc.1.weight"].T + p["mlp.fc.1.bias"]


def fuse_by_hand(alignnet: AlignNet, states_BCSH: Tensor) -> Tensor:
    if alignnet.config.fusion == "mean":
        return states_BCSH.sum(1) / states_BCSH.shape[1]
    if alignnet.config.fusion == "scale":
        return torch.einsum("bcsh,c->bsh", states_BCSH, alignnet.cha_scale.flatten()) / states_BCSH.shape[1]
    padded = F.pad(states_BCSH, (2, 2, 2, 2))
    windows = padded.unfold(2, 5, 1).unfold(3, 5, 1)
    return torch.einsum("bcshij,cij->bsh", windows, alignnet.conv.weight[0]) + alignnet.get_parameter("conv.bias")


@pytest.mark.parametrize(
    ("num_layers", "hidden_size", "fusion", "expected"),
    [
        (29, 3584, "conv", 34_611_670),
        (37, 2048, "conv", 28_317_342),
        (25, 896, "scale", 23_595_545),
        (29, 3584, "mean", 34_610_944),
    ],
)
def test_parameter_counts_are_the_released_ones(
    num_layers: int, hidden_size: int, fusion: Fusion, expected: int
) -> None:
    with torch.device("meta"):
        alignnet = AlignNet(AlignNetConfig(fusion=fusion), dims=AlignNetDims(num_layers, hidden_size))
    assert sum(parameter.numel() for parameter in alignnet.parameters()) == expected


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("padding", ["zero", "reference", "none"])
def test_matches_the_formula(fusion: Fusion, padding: Padding) -> None:
    alignnet = make(fusion=fusion, padding=padding)
    states_BCSH, mask_BS = pad_states(make_states(7, 5, 7), text_tokens=10, padding=padding)
    garbage_BCSH = torch.where(mask_BS[:, None, :, None], states_BCSH, 9.0)
    prompt_embeds, pooled = alignnet(garbage_BCSH, mask_BS=mask_BS)
    seen_BCSH = garbage_BCSH if padding == "reference" else states_BCSH
    tokens, per_token = by_hand(alignnet, fuse_by_hand(alignnet, seen_BCSH))
    torch.testing.assert_close(prompt_embeds, tokens, rtol=1e-9, atol=1e-12)
    wanted = [
        one.mean(0) if padding == "reference" else one[:length].mean(0)
        for one, length in zip(per_token, (7, 5, 7), strict=True)
    ]
    torch.testing.assert_close(pooled, torch.stack(wanted), rtol=1e-9, atol=1e-12)
    assert prompt_embeds.shape == (3, 7 if padding == "none" else 10, 32)


@pytest.mark.parametrize("t5_layers", [0, 2])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_zero_padding_depends_on_no_neighbour(fusion: Fusion, t5_layers: int) -> None:
    """Neither on what stands at padded positions (NaN included), nor on the batch, nor on who padded how far."""
    alignnet = make(fusion=fusion, t5_layers=t5_layers)
    states_BCSH, mask_BS = pad_states(make_states(7, 4), text_tokens=10)
    wanted = alignnet(states_BCSH, mask_BS=mask_BS)
    poisoned_BCSH = torch.where(mask_BS[:, None, :, None], states_BCSH, torch.nan)
    for one, other in zip(wanted, alignnet(poisoned_BCSH[:, :, :8], mask_BS=mask_BS[:, :8]), strict=True):
        torch.testing.assert_close(one, other)
    for index, one_CSH in enumerate(make_states(7, 4)):
        alone = alignnet(one_CSH[None], mask_BS=torch.ones(1, one_CSH.shape[1], dtype=torch.bool))
        torch.testing.assert_close(alone.prompt_embeds_BTE[0], wanted.prompt_embeds_BTE[index])
        torch.testing.assert_close(alone.pooled_BP[0], wanted.pooled_BP[index])


@pytest.mark.parametrize("t5_layers", [0, 2])
def test_no_padding_leaves_valid_tokens_as_if_alone(t5_layers: int) -> None:
    alignnet = make(padding="none", t5_layers=t5_layers)
    batch = run_on(alignnet, make_states(7, 4))
    for index, one_CSH in enumerate(make_states(7, 4)):
        alone = run_on(alignnet, [one_CSH])
        length = one_CSH.shape[1]
        assert alone.prompt_embeds_BTE.shape[1] == length
        torch.testing.assert_close(alone.prompt_embeds_BTE[0], batch.prompt_embeds_BTE[index, :length])
        torch.testing.assert_close(alone.pooled_BP[0], batch.pooled_BP[index])


def test_reference_padding_sees_what_stands_there() -> None:
    alignnet = make(padding="reference")
    states_BCSH, mask_BS = pad_states(make_states(6), text_tokens=10, padding="reference")
    other_BCSH = torch.where(mask_BS[:, None, :, None], states_BCSH, 1.0)
    assert not torch.allclose(alignnet(states_BCSH, mask_BS=mask_BS)[1], alignnet(other_BCSH, mask_BS=mask_BS)[1])


def test_t5_stack_mixes_tokens_of_one_layer_only() -> None:
    """A change of one layer's last token reaches the same layer's first token and no other layer."""
    alignnet = make(fusion="mean", t5_layers=2, padding="none")
    states_BCSH, mask_BS = pad_states(make_states(6), text_tokens=10, padding="none")
    changed_BCSH = states_BCSH.clone()
    changed_BCSH[0, 1, 5] += 1
    difference = alignnet._mix_tokens(states_BCSH, mask_BS) - alignnet._mix_tokens(changed_BCSH, mask_BS)
    assert difference[0, 1, 0].abs().max() > 1e-6
    assert difference[0, [0, 2, 3]].abs().max() == 0


def test_initial_weights_are_the_seeds_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = AlignNet(AlignNetConfig(t5_layers=1), dims=DIMS).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = AlignNet(AlignNetConfig(t5_layers=1), dims=DIMS).state_dict()
    other = AlignNet(AlignNetConfig(t5_layers=1, init_seed=1), dims=DIMS).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["mlp.projector.0.weight"], other["mlp.projector.0.weight"])


def test_scale_starts_xavier_normal() -> None:
    scale = AlignNet(AlignNetConfig(fusion="scale"), dims=AlignNetDims(4000, 8, prompt_dim=8, pooled_dim=4)).cha_scale
    assert scale.std().item() == pytest.approx((2 / 4001) ** 0.5, rel=0.05)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_weight_learns(fusion: Fusion) -> None:
    alignnet = AlignNet(AlignNetConfig(fusion=fusion, t5_layers=1), dims=DIMS)
    states_BCSH, mask_BS = pad_states([one.float() for one in make_states(7, 4)], text_tokens=10)
    prompt_embeds, pooled = alignnet(states_BCSH, mask_BS=mask_BS)
    (prompt_embeds.square().mean() + pooled.square().mean()).backward()
    for name, parameter in alignnet.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_takes_bfloat16_states_with_and_without_autocast() -> None:
    alignnet = AlignNet(AlignNetConfig(), dims=DIMS)
    states_BCSH, mask_BS = pad_states([one.bfloat16() for one in make_states(7, 4)], text_tokens=10)
    plain = alignnet(states_BCSH, mask_BS=mask_BS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = alignnet(states_BCSH, mask_BS=mask_BS)
    assert plain.prompt_embeds_BTE.dtype == torch.float32
    assert cast.prompt_embeds_BTE.dtype == torch.bfloat16
    torch.testing.assert_close(cast.pooled_BP.float(), plain.pooled_BP, rtol=0.05, atol=0.02)


def test_states_that_do_not_fit_are_refused() -> None:
    alignnet = make()
    mask_BS = torch.ones(1, 6, dtype=torch.bool)
    with pytest.raises(WeightsError, match=r"4 layers, tokens, 24\), not \(1, 5, 6, 24\)"):
        alignnet(torch.zeros(1, 5, 6, 24), mask_BS=mask_BS)
    with pytest.raises(InputError, match=r"got lengths \[3, 0\]"):
        pad_states(make_states(3, 0), text_tokens=10)
    with pytest.raises(InputError, match=r"got lengths \[\]"):
        pad_states([], text_tokens=10)


def test_a_prompt_longer_than_the_teachers_text_stays_as_it_is() -> None:
    """Images and videos are; and FLUX takes any number of conditioning tokens."""
    alignnet = make()
    states_BCSH, mask_BS = pad_states(make_states(13, 4), text_tokens=10)
    assert states_BCSH.shape[2] == 13
    long, short = alignnet(states_BCSH, mask_BS=mask_BS), alignnet(states_BCSH[:, :, :10], mask_BS=mask_BS[:, :10])
    assert long.prompt_embeds_BTE.shape[1] == 13
    torch.testing.assert_close(long.pooled_BP[1], short.pooled_BP[1])


def test_pad_states_keeps_dtype_and_places_zeros() -> None:
    states = [one.bfloat16() for one in make_states(3, 5)]
    sizes: dict[Padding, int] = {"zero": 10, "reference": 10, "none": 5}
    for padding, size in sizes.items():
        states_BCSH, mask_BS = pad_states(states, text_tokens=10, padding=padding)
        assert (states_BCSH.dtype, states_BCSH.shape) == (torch.bfloat16, (2, 4, size, 24))
        assert mask_BS.sum(1).tolist() == [3, 5]
        assert torch.equal(states_BCSH[0, :, :3], states[0])
        assert states_BCSH[~mask_BS[:, None].expand(2, 4, size)].abs().max() == 0
