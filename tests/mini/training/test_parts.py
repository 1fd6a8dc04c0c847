"""The parts of the miniature: each learns from a step what it should, and nothing that is frozen learns at all."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor, nn
from transformers import Qwen2Tokenizer

from x2i_platform.mini import build as build_module
from x2i_platform.mini.drawing import SIDE, picture
from x2i_platform.mini.scenes import COLOURS, SHAPES, SIZES, Scene, Thing
from x2i_platform.mini.training import dit, language, text, vae, video, vision
from x2i_platform.mini.training.corpus import pixels_of, training_scenes
from x2i_platform.mini.training.trainer import CHECKPOINT, Schedule

SMALL = 4
NOW = Schedule(steps=2, batch=SMALL, lr=1e-3, warmup=1, ema=0.5)
"""Two steps, of four examples each."""


def step_twice(loss: Callable[[], Mapping[str, Tensor]]) -> dict[str, float]:
    """Take a step backward, after asking for it twice: whatever else was drawn meanwhile, it is the same step."""
    torch.manual_seed(1)
    first = {name: value.item() for name, value in loss().items()}
    torch.manual_seed(2)
    figures = loss()
    assert first == {name: value.item() for name, value in figures.items()}
    assert all(math.isfinite(value) for value in first.values())
    figures["loss"].backward()
    return first


def learning(parameters: Iterable[nn.Parameter]) -> set[bool]:
    """Whether parameters have a gradient that isn't zero."""
    given = [each.grad for each in parameters]
    assert all(grad is None or bool(grad.isfinite().all()) for grad in given)
    return {grad is not None and bool(grad.any()) for grad in given}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def changed(module: nn.Module, before: dict[str, Tensor]) -> set[bool]:
    """Whether parameters have moved since."""
    return {not torch.equal(parameter, before[name]) for name, parameter in module.named_parameters()}


def test_vae_step() -> None:
    model = vae.untrained()
    figures = step_twice(lambda: vae._loss(model, count=SMALL, step=3))
    assert learning(model.parameters()) == {True}
    assert 0 < figures["rmse"] < 255
    assert figures["kl"] > 0


def test_vae_latents_have_zero_mean_and_unit_variance(tmp_path: Path) -> None:
    """Over the pictures they were set with, and nearly over others."""
    model = vae.build(tmp_path, schedule=NOW)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    chosen = list(islice(training_scenes(seed=vae.SEED), vae.STANDARDISED_OVER))
    latents = torch.cat([dit.encode(model, chosen[i : i + 64], first_seed=i) for i in range(0, len(chosen), 64)])
    assert latents.mean().item() == pytest.approx(0, abs=1e-3)
    assert latents.var().item() == pytest.approx(1, abs=1e-3)
    others = dit.encode(model, list(islice(training_scenes(seed=99), 100)), first_seed=0)
    assert others.mean().item() == pytest.approx(0, abs=0.1)
    assert others.var().item() == pytest.approx(1, abs=0.1)


def test_packed_latents_go_back_the_way_the_pipeline_takes(tmp_path: Path) -> None:
    model = vae.untrained().requires_grad_(False)
    model.register_to_config(shift_factor=0.3, scaling_factor=1.7)
    chosen = list(islice(training_scenes(seed=1), 3))
    packed = dit.encode(model, chosen, first_seed=5)
    assert packed.shape == (3, 16, 4 * vae.LATENT_CHANNELS)
    latents = FluxPipeline._unpack_latents(packed, SIDE, SIDE, vae_scale_factor=8) / 1.7 + 0.3
    pixels = pixels_of([picture(scene, seed=5 + i).draw() for i, scene in enumerate(chosen)])
    torch.testing.assert_close(latents, model.encode(pixels).latent_dist.mode(), rtol=1e-4, atol=1e-5)


def test_latents_are_computed_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "latents.pt"
    model = vae.untrained().requires_grad_(False)
    pool = dit.latent_pool(path, vae=model, size=200)
    assert (len(pool.scenes), pool.latents.shape, pool.latents.dtype) == (200, (200, 16, 64), torch.float16)
    assert [file.name for file in path.parent.iterdir()] == ["latents.pt"]
    again = dit.latent_pool(path, vae=None, size=200)
    assert torch.equal(again.latents, pool.latents)
    assert again.scenes == pool.scenes
    own = dit.encode(model, pool.scenes[137:139], first_seed=137)
    torch.testing.assert_close(pool.latents[137:139].float(), own, rtol=2e-3, atol=2e-3)


def test_teacher_step() -> None:
    """The DiT starts as the identity, so gradients come through it part by part; after three steps all learn."""
    pool = dit.Pool(list(islice(training_scenes(seed=1), 20)), torch.randn(20, 16, 64).half())
    parts = dit.TeacherParts()
    parts.t5.requires_grad_(False)
    optimizer = torch.optim.SGD([each for each in parts.parameters() if each.requires_grad], lr=0.1)
    figures = step_twice(lambda: dit._loss(parts, pool, count=SMALL, step=0))
    velocity = figures["flow"]
    assert velocity == pytest.approx(2, abs=0.2), "noise less latents, both of unit variance, against nothing"
    assert learning(parts.clip.final_layer_norm.parameters()) == {True}, "what the contrast alone moves"
    for step in (1, 2, 3):
        optimizer.step()
        optimizer.zero_grad()
        dit._loss(parts, pool, count=SMALL, step=step)["loss"].backward()
    silent = [name for name, parameter in parts.named_parameters() if learning([parameter]) != {True}]
    assert all(name.startswith("t5.") for name in silent)
    assert learning(parts.t5.parameters()) == {False}


def test_t5_stays_as_its_text_left_it(tmp_path: Path) -> None:
    parts = dit.TeacherParts()
    parts.t5 = text.build(tmp_path / "text", config=parts.t5.config, tokenizer=parts.t5_words, schedule=NOW)
    before = snapshot(parts.t5), snapshot(parts.dit)
    model = vae.untrained().requires_grad_(False)
    dit.build(parts, vae=model, folder=tmp_path / "dit", schedule=NOW, pool_size=100)
    assert (changed(parts.t5, before[0]), changed(parts.dit, before[1])) == ({False}, {True, False})
    saved = torch.load(tmp_path / "dit" / CHECKPOINT, weights_only=True)["average"]
    assert not [name for name in saved if name.startswith("t5.")]
    assert all(torch.equal(weight, saved[f"dit.{name}"]) for name, weight in parts.dit.named_parameters())
    assert not any(parameter.requires_grad for parameter in parts.parameters())


def test_text_step() -> None:
    parts = dit.TeacherParts()
    pupil = text.Pupil(parts.t5)
    figures = step_twice(lambda: text._loss(pupil, parts.t5_words, count=SMALL, step=3))
    assert learning(pupil.parameters()) == {True}
    assert figures["shape"] == pytest.approx(math.log(6), rel=0.5)


def asked(scene: Scene, *, hide: bool = False, seed: int = 0) -> text.Lesson:
    return text.lesson(scene, seed=seed, hide=hide, unknown="<unk>")


def test_a_text_is_asked_for_the_left_or_upper_thing_first_and_of_and_for_the_one_named_first() -> None:
    above = Scene(Thing("star", "red", "large"), relation="below", second=Thing("circle", "black"))
    for seed in range(20):
        assert asked(above, seed=seed).things == [[0, 7, 3], [3, 0, 2]]
        together = asked(Scene(Thing("star", "red"), second=Thing("circle", "black")), seed=seed)
        star_first = together.text.index("star") < together.text.index("circle")
        assert together.things == ([[3, 0, 3], [0, 7, 3]] if star_first else [[0, 7, 3], [3, 0, 3]])
    assert text.scene_labels(above) == [text.ARRANGEMENTS.index("above"), 0]
    three = Scene(Thing("heart", "blue"), count=3)
    assert asked(three).things == [[4, 4, 3], [text.NONE] * 3]
    assert text.scene_labels(three) == [text.ARRANGEMENTS.index("alone"), 2]


def test_what_is_hidden_is_not_asked_for_and_what_is_asked_for_is_said() -> None:
    words = [*SHAPES, *COLOURS, "small|little", "medium", "large|big"]
    columns = (SHAPES, COLOURS, SIZES)
    hidden = 0
    for seed, scene in enumerate(islice(training_scenes(seed=4), 400)):
        lesson = asked(scene, hide=True, seed=seed)
        said = {word for word in words if re.search(rf"\b({word})", lesson.text)}
        values = {
            columns[i][value]
            for thing in lesson.things
            for i, value in enumerate(thing)
            if 0 <= value < len(columns[i])
        }
        assert {word.split("|")[0] for word in said} == values
        hidden += "<unk>" in lesson.text
    assert 100 < hidden < 300
    assert "<unk>" not in asked(scene, hide=False).text


def test_teacher_can_tell_its_own_pairs() -> None:
    """The contrast is low where caption and picture point the same way, high where they are mixed up."""
    parts = dit.TeacherParts()
    latents = torch.randn(8, 16, 64)
    with torch.no_grad():
        parts.log_scale.fill_(4.0)
        right = parts.tower(latents)
        found, mixed = (dit._contrastive(parts, pooled=each, clean_BNC=latents) for each in (right, right.roll(1, 0)))
    assert found < mixed


def test_language_step(mllm: Any, words: Qwen2Tokenizer) -> None:
    mllm.model.visual.requires_grad_(False)
    figures = step_twice(lambda: language._loss(mllm, words, count=SMALL, step=3))
    assert learning(mllm.model.language_model.parameters()) == {True}
    assert learning(mllm.lm_head.parameters()) == {True}
    assert learning(mllm.model.visual.parameters()) == {False}
    assert figures["answer"] == pytest.approx(math.log(len(words)), rel=0.1), "an untrained model knows nothing"
    assert figures["exact"] == 0


def test_tower_step(mllm: Any) -> None:
    visual = mllm.requires_grad_(False).model.visual.requires_grad_(True)
    tower = vision.Tower(visual, width=language.WIDTH)
    figures = step_twice(lambda: vision._tower_loss(tower, count=SMALL, step=3))
    assert learning(tower.parameters()) == {True}
    assert learning(mllm.model.language_model.parameters()) == {False}
    assert figures["loss"] == pytest.approx(sum(math.log(size) for size in tower.sizes), rel=0.2)


def test_vision_step(mllm: Any, words: Qwen2Tokenizer) -> None:
    mllm.requires_grad_(False).model.visual.requires_grad_(True)
    step_twice(lambda: vision._loss(mllm, words, count=SMALL, step=3))
    assert learning(mllm.model.visual.parameters()) == {True}
    assert {p.grad is None for p in [*mllm.model.language_model.parameters(), *mllm.lm_head.parameters()]} == {True}


def test_video_step(mllm: Any, words: Qwen2Tokenizer) -> None:
    fixed = copy.deepcopy(mllm).requires_grad_(False)
    figures = step_twice(lambda: video._loss(mllm, fixed, words, count=SMALL, step=3))
    assert learning(mllm.parameters()) == {True}
    assert learning(fixed.parameters()) == {False}
    kinds = [figures[kind] + video.STATES_WEIGHT * figures[f"{kind}_apart"] for kind in ("text", "image", "video")]
    assert figures["loss"] == pytest.approx(sum(kinds), rel=1e-5)


def test_stages_train_their_own_part_and_leave_all_frozen(mllm: Any, words: Qwen2Tokenizer, tmp_path: Path) -> None:
    eyes, speech = mllm.model.visual, mllm.model.language_model
    before = snapshot(eyes), snapshot(speech)
    vision.pretrain_tower(mllm, folder=tmp_path / "tower", schedule=NOW)
    assert (changed(eyes, before[0]), changed(speech, before[1])) == ({True}, {False})
    before = snapshot(eyes), snapshot(speech)
    vision.build(mllm, words, folder=tmp_path / "vision", schedule=NOW)
    assert (changed(eyes, before[0]), changed(speech, before[1])) == ({True}, {False})
    before = snapshot(eyes), snapshot(speech)
    video.build(mllm, words, folder=tmp_path / "video", schedule=NOW)
    assert (changed(eyes, before[0]), changed(speech, before[1])) == ({True}, {True})
    assert not any(parameter.requires_grad for parameter in mllm.parameters())
    assert all((tmp_path / stage / CHECKPOINT).is_file() for stage in ("tower", "vision", "video"))


def test_stages_that_are_finished_give_the_same_model_again(words: Qwen2Tokenizer, tmp_path: Path) -> None:
    def all_stages() -> Any:
        model, tokenizer = language.build(tmp_path / "language", schedule=NOW)
        vision.pretrain_tower(model, folder=tmp_path / "tower", schedule=NOW)
        vision.build(model, tokenizer, folder=tmp_path / "vision", schedule=NOW)
        video.build(model, tokenizer, folder=tmp_path / "video", schedule=NOW)
        return model

    first, again = all_stages(), all_stages()
    assert changed(again, snapshot(first)) == {False}
    assert changed(first, snapshot(language.untrained(words))) == {True}


@pytest.mark.parametrize(
    ("asked", "done"),
    [
        ([], ["vae", "teacher", "language", "vision", "pack", "audio"]),
        (["vision", "vae"], ["vae", "vision"]),
        (["teacher"], ["teacher"]),
    ],
)
def test_parts_are_built_in_their_order(asked: list[str], done: list[str], tmp_path: Path) -> None:
    built: list[tuple[str, Path]] = []

    def recording(name: str) -> Callable[[Path], None]:
        return lambda folder: built.append((name, folder))

    parts = {name: recording(name) for name in build_module.PARTS}
    build_module.main([*asked, "--folder", str(tmp_path)], parts=parts)
    assert built == [(name, tmp_path) for name in done]


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        build_module.main(["eyes", "--folder", str(tmp_path)])
    assert raised.value.code == 2
