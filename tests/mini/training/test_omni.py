"""A Qwen2.5-VL that was widened to a Thinker reads and sees as before."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from x2i_platform.mini.checkpoints import trained_folder
from x2i_platform.mini.languages import LANGUAGES, caption, describe
from x2i_platform.mini.scenes import canonical
from x2i_platform.mini.training import language, omni, video, vision
from x2i_platform.mini.training.corpus import training_scenes
from x2i_platform.mini.video import frames
from x2i_platform.mini.vocabularies import SOUND_TOKENS

Thinker = tuple[Any, Qwen2Tokenizer]


@pytest.fixture(scope="module")
def seeing() -> Any:
    """The shipped Qwen2.5-VL."""
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(trained_folder() / "qwen2.5-vl", dtype=torch.float32)


@torch.no_grad()
def answered(model: Any, batch: language.Dialogues, **shown: Any) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """States of all layers and logits of dialogues with what is shown in them."""
    output = model(
        input_ids=batch.ids_BS, attention_mask=batch.mask_BS, use_cache=False, output_hidden_states=True, **shown
    )
    return output.hidden_states, output.logits


def assert_equal_where_told(ours: Any, theirs: Any, batch: language.Dialogues) -> None:
    told = batch.mask_BS.bool()
    for one, other in zip(ours[0], theirs[0], strict=True):
        assert torch.equal(one[told], other[told])
    known = theirs[1].shape[-1]
    torch.testing.assert_close(ours[1][told][:, :known], theirs[1][told], rtol=1e-5, atol=1e-5)
    assert ours[1][told].argmax(-1).max() < known, "no new token is ever said"


def test_text_of_all_languages_has_the_same_tokens_and_states(thinker: Thinker, seeing: Any) -> None:
    model, words = thinker
    scenes = list(islice(training_scenes(seed=5), 12))
    texts = [caption(scene, language=LANGUAGES[i % 6], seed=i) for i, scene in enumerate(scenes)]
    answers = [describe(canonical(scene)) for scene in scenes]
    batch = language.dialogues(words, texts, answers=answers)
    plain = language.dialogues(language.build_tokenizer(), texts, answers=answers)
    assert torch.equal(batch.ids_BS, plain.ids_BS)
    types = {"mm_token_type_ids": torch.zeros_like(batch.ids_BS)}
    assert_equal_where_told(answered(model, batch), answered(seeing, batch, **types), batch)


def test_pictures_have_the_same_states(thinker: Thinker, seeing: Any) -> None:
    model, words = thinker
    pictures = vision.training_pictures(seed=5, count=6)
    batch = vision.vision_dialogues(words, answers=[describe(canonical(one.scene)) for one in pictures])
    shown = {"pixel_values": vision.patches_of([one.draw() for one in pictures]), "image_grid_thw": vision.grids(6)}
    types = {"mm_token_type_ids": (batch.ids_BS == words.image_token_id).int()}
    assert_equal_where_told(answered(model, batch, **shown), answered(seeing, batch, **shown, **types), batch)


def test_videos_get_the_same_answers_though_text_after_them_stands_elsewhere(thinker: Thinker) -> None:
    """Qwen2.5-VL counts on from the video's height or width, Qwen2.5-Omni from its last position in time too."""
    model, words = thinker
    pictures = vision.training_pictures(seed=5, count=40)
    batch = vision.vision_dialogues(
        words, answers=[describe(canonical(one.scene)) for one in pictures], kind="video", pairs=video.PAIRS
    )
    clips = vision.video_patches_of([frames(one, seed=1) for one in pictures])
    shown = {"pixel_values_videos": clips, "video_grid_thw": vision.grids(40, pairs=video.PAIRS)}
    for seconds in (1.0, 2.0):  # the processor's guess of two frames a second, and the truth of one
        _, logits = answered(model, batch, **shown, video_second_per_grid=torch.full((40,), seconds))
        assert language.cross_entropies(logits, batch)["exact"] >= 0.95


def test_new_tokens_begin_as_those_of_a_picture_and_are_in_the_config(thinker: Thinker) -> None:
    model, words = thinker
    embeddings = model.get_input_embeddings().weight
    for new, old in omni.LIKE.items():
        assert torch.equal(*(embeddings[words.convert_tokens_to_ids(token)] for token in (new, old)))
    ids = [words.convert_tokens_to_ids(token) for token in SOUND_TOKENS.values()]
    config = model.config
    assert ids == [config.audio_start_token_id, config.audio_token_id, config.audio_end_token_id]
    assert len(words) == config.text_config.vocab_size == len(embeddings)


def test_untrained_ears_are_the_same_each_time(thinker: Thinker) -> None:
    again, _ = omni.widened(trained_folder() / "qwen2.5-vl")
    for one, other in zip(thinker[0].parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other) and not one.requires_grad
