"""The distillation step: its loss against a direct computation, its sampling, and where its gradient goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.conftest import World
from x2i_platform.config import AlignNetConfig, Padding, Recipe, TargetsConfig
from x2i_platform.features.reader import read_samples
from x2i_platform.features.schema import SAMPLES
from x2i_platform.models.alignnet import AlignNet
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.taps import attention_taps
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.precompute.draws import draw_tokens
from x2i_platform.recipes import override
from x2i_platform.training.data import Batch, Collate
from x2i_platform.training.losses import Direction, attention_kl
from x2i_platform.training.step import distill_step

SEEDS = 120


@pytest.fixture(scope="module")
def shared_teacher(whole: World) -> Teacher:
    return Teacher.load(whole.recipe.teacher)


@pytest.fixture
def teacher(shared_teacher: Teacher) -> Teacher:
    shared_teacher.dit.disable_gradient_checkpointing()
    return shared_teacher


@pytest.fixture
def alignnet(whole: World) -> AlignNet:
    return AlignNet(AlignNetConfig(), dims=whole.dims)


def make_batch(world: World, *, count: int = 3, padding: Padding = "zero") -> Batch:
    return Collate(padding, text_tokens=48)(world.samples(count))


def outputs(
    teacher: Teacher, prompt_embeds_BTE: Tensor, pooled_BP: Tensor, *, seeds: Sequence[int]
) -> dict[str, Tensor]:
    with attention_taps(teacher.dit, teacher.tap_names) as taken:
        teacher.forward(
            prompt_embeds_BTE, pooled_BP=pooled_BP, latents_BNC=teacher.noise(seeds), sigma_B=teacher.sigmas(seeds)
        )
    return dict(taken)


def gradient_of(alignnet: AlignNet) -> Tensor:
    gradient = alignnet.get_parameter("mlp.projector.0.weight").grad
    assert gradient is not None
    return gradient


def conditioning_of(world: World, batch: Batch) -> Conditioning:
    """The captions themselves through T5 and CLIP."""
    rows = [row for commit in world.store.manifest().of(SAMPLES).values() for row in read_samples(world.store, commit)]
    captions = {row["sample_id"]: row["caption"] for row in rows}
    encoders = TextEncoders.load(world.recipe.teacher)
    conditioning = encoders.encode([captions[sample] for sample in batch.sample_ids])
    return Conditioning(conditioning.prompt_embeds_BTE, conditioning.pooled_BP)


def teacher_outputs(world: World, teacher: Teacher, batch: Batch) -> dict[str, Tensor]:
    """The first of two passes."""
    return outputs(teacher, *conditioning_of(world, batch), seeds=batch.seeds)


def zscore(tensor: Tensor) -> Tensor:
    return (tensor - tensor.mean(-1, keepdim=True)) / (tensor.std(-1, keepdim=True) + 1e-7)


@pytest.mark.parametrize("direction", ["student_teacher", "teacher_student"])
@torch.no_grad()
def test_all_tokens_give_the_loss_of_two_passes(
    whole: World, teacher: Teacher, alignnet: AlignNet, direction: Direction
) -> None:
    batch = make_batch(whole)
    config = whole.recipe.train.model_copy(update={"direction": direction, "temperature": 2.0})
    result = distill_step(alignnet, teacher=teacher, batch=batch, config=config)
    wanted = teacher_outputs(whole, teacher, batch)
    students = outputs(teacher, *alignnet(batch.states_BCSH, mask_BS=batch.mask_BS), seeds=batch.seeds)

    def direct(targets: dict[str, Tensor]) -> float:
        taps = [students[tap] for tap in targets]
        return float(attention_kl(taps, list(targets.values()), temperature=2.0, direction=direction))

    assert float(result.loss) == pytest.approx(direct(wanted), rel=1e-3)  # bfloat16 keeps 8 bits of z
    rounded = {tap: zscore(output).bfloat16() for tap, output in wanted.items()}
    assert float(result.loss) == pytest.approx(direct(rounded), rel=1e-5)
    assert result.num_tokens == sum(output.shape[1] for output in wanted.values()) == 2 * (16 + 48) + 3 * 64
    assert result.sample_ids == batch.sample_ids


@pytest.mark.parametrize("canvas", ["noise", "estimate"])
@torch.no_grad()
def test_what_the_teacher_gave_has_no_loss_at_any_noise_level(make_world: Callable[..., World], canvas: str) -> None:
    settings = ("teacher.sigma=[1.0, 0.5]", f"teacher.canvas={canvas}", "targets.codec=bf16")
    world = make_world(*settings)
    teacher, batch = Teacher.load(world.recipe.teacher), make_batch(world, count=6)
    assert set(teacher.sigmas(batch.seeds).tolist()) == {1.0, 0.5}
    given = conditioning_of(world, batch)

    def loss(recipe: Recipe, batch: Batch) -> float:
        teacher = Teacher.load(recipe.teacher)
        result = distill_step(lambda *_, **__: given, teacher=teacher, batch=batch, config=recipe.train)
        return float(result.loss) / result.num_tokens

    assert loss(world.recipe, batch) < 1e-6
    assert loss(override(world.recipe, ["teacher.sigma=1.0"]), batch) > 1e-4
    if canvas == "estimate":
        assert loss(world.recipe, replace(batch, canvas_BL=None)) > 1e-4


def keep(batch: Batch, *, seed: int, image_tokens: int, text_tokens: int) -> Batch:
    """The batch that a store with fewer tokens would give, cut out of one with all of them."""
    config = TargetsConfig(seed=seed, image_tokens=image_tokens, text_tokens=text_tokens)
    draws = [draw_tokens(sample, config=config, num_text=48, num_image=16) for sample in batch.sample_ids]
    text_BT, image_BT = (torch.stack(drawn) for drawn in zip(*draws, strict=True))
    positions = {"text": text_BT, "image": image_BT}
    joint_BT = torch.cat([text_BT, image_BT + 48], dim=1)
    rows = torch.arange(len(draws))[:, None]
    targets = {tap: t[rows, positions.get(tap.rpartition(".")[2], joint_BT)] for tap, t in batch.targets_BTD.items()}
    return replace(batch, text_idx_BT=text_BT, image_idx_BT=image_BT, targets_BTD=targets)


@torch.no_grad()
def test_sampled_tokens_estimate_the_loss_of_all_without_bias(
    whole: World, teacher: Teacher, alignnet: AlignNet
) -> None:
    batch, config = make_batch(whole, count=2), whole.recipe.train
    all_tokens = distill_step(alignnet, teacher=teacher, batch=batch, config=config)
    results = [
        distill_step(
            alignnet, teacher=teacher, batch=keep(batch, seed=seed, image_tokens=3, text_tokens=5), config=config
        )
        for seed in range(SEEDS)
    ]
    losses = torch.stack([result.loss for result in results]).double()
    standard_error = losses.std() / SEEDS**0.5
    assert standard_error < 0.02 * all_tokens.loss
    assert abs(losses.mean() - all_tokens.loss) < 3 * standard_error
    assert {result.num_tokens for result in results} == {all_tokens.num_tokens}


def test_gradient_reaches_alignnet_alone(sampled: World, teacher: Teacher, alignnet: AlignNet) -> None:
    result = distill_step(alignnet, teacher=teacher, batch=make_batch(sampled), config=sampled.recipe.train)
    result.loss.backward()
    for name, parameter in alignnet.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # What the convolution's bias adds to a whole token, the LayerNorm behind it takes away.
        assert parameter.grad.abs().max() > 0 or name == "conv.bias", name
    assert all(parameter.grad is None for parameter in teacher.dit.parameters())


def test_gradient_checkpointing_changes_no_gradient(sampled: World, teacher: Teacher) -> None:
    batch, gradients = make_batch(sampled), []
    for checkpointing in (False, True):
        alignnet = AlignNet(AlignNetConfig(), dims=sampled.dims)
        if checkpointing:
            teacher.enable_gradient_checkpointing()
        distill_step(alignnet, teacher=teacher, batch=batch, config=sampled.recipe.train).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in alignnet.named_parameters()})
    plain, recomputed = gradients
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("padding", ["zero", "none", "reference"])
def test_every_padding_trains(
    sampled: World, build_a_world: Callable[..., World], teacher: Teacher, padding: Padding
) -> None:
    kept = ("targets.image_tokens=7", "targets.text_tokens=11")
    world = build_a_world("alignnet.padding=reference", *kept) if padding == "reference" else sampled
    batch = make_batch(world, padding=padding)
    alignnet = AlignNet(AlignNetConfig(padding=padding), dims=world.dims)
    result = distill_step(alignnet, teacher=teacher, batch=batch, config=world.recipe.train)
    result.loss.backward()
    assert torch.isfinite(result.loss)
    assert gradient_of(alignnet).norm() > 0
    assert (batch.states_BCSH.shape[2] == 48) == (padding != "none")


@torch.no_grad()
def test_without_padding_only_tokens_the_student_has_count(whole: World, teacher: Teacher) -> None:
    batch = make_batch(whole, count=1, padding="none")
    alignnet = AlignNet(AlignNetConfig(padding="none"), dims=whole.dims)
    result = distill_step(alignnet, teacher=teacher, batch=batch, config=whole.recipe.train)
    students = outputs(teacher, *alignnet(batch.states_BCSH, mask_BS=batch.mask_BS), seeds=batch.seeds)
    num_text = batch.states_BCSH.shape[2]
    targets = {}
    for tap, values_BTD in batch.targets_BTD.items():
        stream = tap.rpartition(".")[2]
        shared = torch.cat([values_BTD[:, :num_text], values_BTD[:, 48:]], dim=1)
        targets[tap] = {"image": values_BTD, "text": values_BTD[:, :num_text]}.get(stream, shared)
    assert num_text < 48
    direct = attention_kl([students[tap] for tap in targets], list(targets.values()))
    assert float(result.loss) == pytest.approx(float(direct), rel=1e-5)


@pytest.mark.parametrize("taps", [["double.0.image"], ["double.1.text", "single.2"]])
def test_a_choice_of_taps_is_enough(sampled: World, teacher: Teacher, alignnet: AlignNet, taps: Any) -> None:
    batch = make_batch(sampled)
    batch = replace(batch, targets_BTD={tap: batch.targets_BTD[tap] for tap in taps})
    result = distill_step(alignnet, teacher=teacher, batch=batch, config=sampled.recipe.train)
    result.loss.backward()
    assert result.num_tokens == {"double.0.image": 16, "double.1.text": 48 + 64}[taps[0]]
    assert gradient_of(alignnet).norm() > 0
