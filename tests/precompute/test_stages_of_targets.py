"""Targets are the teacher's z-scored attention outputs, at tokens and on noise that depend on the caption alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.stage_flow import CAPTIONS, Flow, flow, new_store, one_thread, recipe, stages
from x2i_platform.config import Recipe, TargetsConfig
from x2i_platform.features.schema import sample_id
from x2i_platform.precompute.draws import draw_tokens
from x2i_platform.precompute.stages import Stage
from x2i_platform.recipes import override

__all__ = ["flow", "one_thread", "recipe", "stages"]


def attention_outputs(flow: Flow, caption: str, *, seed: int) -> dict[str, torch.Tensor]:
    """Outputs of every attention module for one caption, `(tokens, D)`, by hooks of our own."""
    dit, teacher, found = flow.targets.teacher.dit, flow.targets.teacher, {}
    handles = [
        block.attn.register_forward_hook(lambda _module, _args, out, i=i: found.update({i: out}))
        for i, block in enumerate([*dit.transformer_blocks, *dit.single_transformer_blocks])
    ]
    conditioning = flow.text.encoders.encode([caption])
    with torch.no_grad():
        teacher.forward(
            conditioning.prompt_embeds_BTE,
            pooled_BP=conditioning.pooled_BP,
            latents_BNC=teacher.noise([seed]),
            sigma_B=teacher.sigmas([seed]),
        )
    for handle in handles:
        handle.remove()
    outputs = {}
    for i, out in found.items():
        if i < len(dit.transformer_blocks):
            outputs[f"double.{i}.image"], outputs[f"double.{i}.text"] = out[0][0], out[1][0]
        else:
            outputs[f"single.{i - len(dit.transformer_blocks)}"] = out[0]
    return outputs


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_targets_are_the_z_scores_of_the_teachers_outputs_at_the_kept_tokens(
    flow: Flow, recipe: Recipe, codec: str
) -> None:
    flow.targets.recipe = override(recipe, [f"targets.codec={codec}"])
    flow.run()
    for caption in CAPTIONS[:3]:
        sample = flow.sample(caption)
        outputs = attention_outputs(flow, caption, seed=sample.seed)
        assert list(sample.targets) == list(flow.targets.teacher.tap_names)
        assert set(outputs) == set(sample.targets)
        for tap, target in sample.targets.items():
            if tap.startswith("single."):  # one stream, text tokens first
                kept = [*target.text_idx, *(48 + i for i in target.image_idx)]
            else:
                kept = list(target.image_idx if tap.endswith(".image") else target.text_idx)
            assert len(kept) == (12 if tap.startswith("single.") else 7 if tap.endswith(".image") else 5)
            values_TD = outputs[tap][kept].double()
            z_TD = (values_TD - values_TD.mean(-1, keepdim=True)) / (values_TD.std(-1, keepdim=True) + 1e-7)
            error_TD = (target.values_TD.double() - z_TD).abs()
            step = 2**-8 * z_TD.abs() if codec == "bf16" else 0.51 * z_TD.abs().amax(0) / 127
            assert (error_TD <= step + 1e-4).all(), tap


def test_with_all_tokens_kept_every_token_is_there_once(flow: Flow, recipe: Recipe) -> None:
    flow.targets.recipe = override(recipe, ["targets.image_tokens=all", "targets.text_tokens=9999"])
    flow.targets.taps = ("double.0.image", "double.0.text", "single.1")
    flow.run()
    image, text, joint = flow.sample(CAPTIONS[0]).targets.values()
    tokens = flow.targets.teacher.num_image_tokens
    assert (image.text_idx, image.image_idx) == ((), tuple(range(tokens)))
    assert (text.text_idx, text.image_idx) == (tuple(range(48)), ())
    assert (joint.text_idx, joint.image_idx) == (tuple(range(48)), tuple(range(tokens)))
    assert joint.values_TD.shape[0] == 48 + tokens


def test_what_is_computed_depends_on_the_caption_alone(
    stages: dict[str, Stage], tmp_path: Path, recipe: Recipe
) -> None:
    """Another order, other neighbours, another batch size, another shard: the same noise, tokens and numbers."""
    whole = Flow(stages, new_store(tmp_path / "whole", CAPTIONS))
    whole.run()
    other = Flow(stages, new_store(tmp_path / "other", [*reversed(CAPTIONS), "a photo"], size=3), batch_size=2)
    for shard in range(3):
        other.run(shard)
    for position, caption in enumerate(reversed(CAPTIONS)):
        one, two = whole.sample(caption), other.sample(caption, shard=position // 3)
        assert one.seed == two.seed
        torch.testing.assert_close(one.states_CSH, two.states_CSH, rtol=1e-4, atol=1e-5)
        for tap, target in one.targets.items():
            assert (target.text_idx, target.image_idx) == (two.targets[tap].text_idx, two.targets[tap].image_idx)
            # One bf16 step, where rounding of the last bits falls on either side.
            torch.testing.assert_close(target.values_TD, two.targets[tap].values_TD, rtol=2**-7, atol=1e-4)
    assert len({whole.sample(caption).seed for caption in CAPTIONS}) == len(CAPTIONS)


def test_tokens_are_drawn_uniformly_without_replacement_and_by_sample_and_seed() -> None:
    config = TargetsConfig(image_tokens=6, text_tokens=3, seed=1)
    drawn: Counter[tuple[str, int]] = Counter()
    for number in range(1500):
        text, image = draw_tokens(sample_id(str(number)), config=config, num_text=10, num_image=16)
        assert text.tolist() == sorted(set(text.tolist()))
        assert image.tolist() == sorted(set(image.tolist()))
        assert (len(text), len(image)) == (3, 6)
        drawn.update(("text", i) for i in text.tolist())
        drawn.update(("image", i) for i in image.tolist())
    assert set(drawn) == {*(("text", i) for i in range(10)), *(("image", i) for i in range(16))}
    # 1500 x 3/10 and 1500 x 6/16, each within five standard deviations.
    assert all(abs(count - (450 if kind == "text" else 562.5)) < 5 * 19 for (kind, _), count in drawn.items())

    def draw(sample: str, seed: int) -> list[list[int]]:
        chosen = TargetsConfig(image_tokens=20, text_tokens=20, seed=seed)
        return [part.tolist() for part in draw_tokens(sample, config=chosen, num_text=100, num_image=100)]

    assert draw("a", 0) == draw("a", 0)
    assert len({str(draw(sample, seed)) for sample in "abc" for seed in range(3)}) == 9
    text_idx, image_idx = draw("a", 0)
    assert text_idx != image_idx, "two draws, not one"
