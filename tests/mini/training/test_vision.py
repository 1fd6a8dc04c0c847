"""What the miniature's vision tower is shown, and that a chat with a picture or a video runs as the true model does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLProcessor, Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

from x2i_platform.mini.drawing import SIDE, Picture, Placed
from x2i_platform.mini.scenes import COLOURS, SHAPES, SIZES, Scene, Thing
from x2i_platform.mini.training import language, video, vision
from x2i_platform.mini.video import frames


def settings() -> dict[str, Any]:
    edges = {"shortest_edge": vision.CELL**2, "longest_edge": SIDE**2}
    return {"patch_size": vision.PATCH, "merge_size": vision.MERGE, "temporal_patch_size": vision.FRAMES, "size": edges}


def processor(words: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Of transformers, for patches of 8 pixels."""
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**settings()),
        video_processor=Qwen2VLVideoProcessor(**settings(), do_sample_frames=False),
        tokenizer=words,
        chat_template=words.chat_template,
    )


def test_patches_are_those_of_the_true_processors() -> None:
    pictures = vision.training_pictures(seed=3, count=3)
    images = [one.draw() for one in pictures]
    found = Qwen2VLImageProcessor(**settings())(images, return_tensors="pt")
    torch.testing.assert_close(vision.patches_of(images), found.pixel_values, rtol=0, atol=1e-5)
    assert torch.equal(vision.grids(3), found.image_grid_thw)
    clips = [frames(one, seed=1) for one in pictures]
    found = Qwen2VLVideoProcessor(**settings(), do_sample_frames=False)(clips, return_tensors="pt")
    torch.testing.assert_close(vision.video_patches_of(clips), found.pixel_values_videos, rtol=0, atol=1e-5)
    assert torch.equal(vision.grids(3, pairs=video.PAIRS), found.video_grid_thw)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_chats_with_vision_run_as_the_whole_model_runs_them(kind: Any, mllm: Any, words: Qwen2Tokenizer) -> None:
    """From the same words and pictures by way of transformers' processor."""
    answers = ["a red circle", "a large red circle above a small blue square"]
    pictures = vision.training_pictures(seed=3, count=2)
    images, clips = [one.draw() for one in pictures], [frames(one, seed=1) for one in pictures]
    pairs = 1 if kind == "image" else video.PAIRS
    batch = vision.vision_dialogues(words, answers=answers, kind=kind, pairs=pairs)
    head = words.apply_chat_template(
        [{"role": "user", "content": [{"type": kind}]}], tokenize=False, add_generation_prompt=True
    )
    a_second_apart = {"total_num_frames": 4, "fps": 1.0, "frames_indices": [0, 1, 2, 3]}
    shown: dict[str, Any] = (
        {"images": images} if kind == "image" else {"videos": clips, "video_metadata": [a_second_apart] * 2}
    )
    inputs = processor(words)(
        text=[head + answer + words.eos_token for answer in answers],
        **shown,
        return_tensors="pt",
        padding=True,
        padding_side="right",
    )
    assert torch.equal(inputs["input_ids"], batch.ids_BS)
    assert torch.equal(inputs["attention_mask"], batch.mask_BS)
    patches = vision.patches_of(images) if kind == "image" else vision.video_patches_of(clips)
    with torch.no_grad():
        states, logits = vision.run_with_vision(mllm, batch, patches=patches, kind=kind, pairs=pairs)
        whole = mllm(**inputs, output_hidden_states=True)
    told = batch.mask_BS.bool()
    torch.testing.assert_close(logits[told], whole.logits[told], rtol=1e-4, atol=1e-4)
    for one, other in zip(states, whole.hidden_states, strict=True):
        torch.testing.assert_close(one[told], other[told], rtol=1e-4, atol=1e-4)


def test_apart_is_counted_in_units_of_the_goals_variance() -> None:
    batch = language.collate([[1]] * 3, [[2, 3]] * 3, filler=0)
    goals = [torch.randn(6, 4) * scale for scale in (1, 5, 50)]
    moved = [(goal + 0.5 * goal.var(0).mean().sqrt()).view(3, 2, 4) for goal in goals]
    states = [torch.cat([torch.full((3, 1, 4), 9.0), each], dim=1) for each in moved]
    assert vision.distance_from(goals, states, batch).item() == pytest.approx(0.25, rel=1e-4)


def test_cells_say_what_stands_where() -> None:
    """A large square in the middle of the upper left quarter, a small star on the last cell's middle."""
    square, star = Thing("square", "red", "large"), Thing("star", "black", "small")
    shown = Picture(
        Scene(square, relation="above", second=star), (Placed(square, 16, 16, 12.0), Placed(star, 56, 57, 6.0))
    )
    labels = vision.cell_labels(shown)
    assert len(labels) == 16
    red = (1 + SHAPES.index("square"), 1 + COLOURS.index("red"), 1 + SIZES.index("large"))
    black = (1 + SHAPES.index("star"), 1 + COLOURS.index("black"), 1 + SIZES.index("small"))
    expected = {  # cell by row and column: the thing's centre lies half a cell, 1 step of 8 pixels, away
        (0, 0): (*red, 3, 3),
        (0, 1): (*red, 1, 3),
        (1, 0): (*red, 3, 1),
        (1, 1): (*red, 1, 1),
        (3, 3): (*black, 2, 2),
    }
    for cell, found in enumerate(labels):
        assert found == expected.get(divmod(cell, 4), (0, 0, 0, 2, 2)), divmod(cell, 4)


def test_cells_name_everything_that_is_seen() -> None:
    for shown in vision.training_pictures(seed=8, count=200):
        named = {labels[:3] for labels in vision.cell_labels(shown) if labels[0]}
        things = {(1 + SHAPES.index(t.shape), 1 + COLOURS.index(t.colour)) for t in shown.scene.things}
        assert {each[:2] for each in named} == things
