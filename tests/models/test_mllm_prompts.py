"""Prompts with images and videos, and states of the model's own answers, against transformers' own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image, ImageDraw

from tests.random_models import THREE_CAPTIONS
from x2i_platform.config import MLLMConfig
from x2i_platform.errors import InputError
from x2i_platform.media.clips import Video
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.prompt_reader import PromptTooLong
from x2i_platform.models.prompts import Prompt


def picture(colour: str, *, size: tuple[int, int] = (64, 64)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((10, 10, 40, 40), fill=colour)
    return image


IMAGE = Prompt.of(picture("red"))
FRAMES = (picture("red"), picture("blue"), picture("green"), picture("black"))
VIDEO = Prompt.of(Video(FRAMES, fps=1.0))
MIXED = Prompt.of("like this", picture("blue", size=(96, 64)), "but with", picture("green"), "at night")


@pytest.fixture(scope="module")
def speaking() -> MLLM:
    """One of its own: once it has answered, a model keeps its LM head."""
    return MLLM.load(MLLMConfig(model="mini:random-qwen2.5-vl", dtype="float32", max_tokens=128, answer_tokens=12))


@pytest.fixture(scope="module")
def whole(qwen_folder: Path) -> Any:
    return transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen_folder).eval()


@pytest.fixture(scope="module")
def processor(qwen_folder: Path) -> Any:
    return transformers.AutoProcessor.from_pretrained(qwen_folder)


@torch.no_grad()
def test_states_of_images_and_videos_are_those_of_transformers(mllm: MLLM, whole: Any, processor: Any) -> None:
    asked: list[tuple[Prompt, dict[str, Any]]] = [
        (IMAGE, {"images": [picture("red")]}),
        (VIDEO, {"videos": [list(FRAMES)]}),
        (MIXED, {"images": list(MIXED.media)}),
    ]
    for prompt, kinds in asked:
        text = processor.apply_chat_template(prompt.messages(), tokenize=False, add_generation_prompt=True)
        if "videos" in kinds:
            kinds["video_metadata"] = [{"total_num_frames": 4, "fps": 1.0, "frames_indices": [0, 1, 2, 3]}]
        inputs = processor(text=[text], return_tensors="pt", **kinds)
        expected_CSH = torch.cat(whole(**inputs, output_hidden_states=True).hidden_states)
        (states_CSH,) = mllm.encode([prompt])
        torch.testing.assert_close(states_CSH, expected_CSH, rtol=1e-4, atol=1e-5)


def test_a_mixed_batch_gives_each_prompt_what_it_gets_alone(mllm: MLLM) -> None:
    prompts: list[str | Prompt] = [THREE_CAPTIONS[0], IMAGE, VIDEO, MIXED, "a photo"]
    for prompt, states_CSH in zip(prompts, mllm.encode(prompts), strict=True):
        (alone_CSH,) = mllm.encode([prompt])
        torch.testing.assert_close(states_CSH, alone_CSH, rtol=1e-4, atol=1e-4)


def test_what_is_shown_matters(mllm: MLLM) -> None:
    red, blue = mllm.encode([Prompt.of(picture("red")), Prompt.of(picture("blue"))])
    assert not torch.allclose(red, blue, atol=1e-3)


def test_an_answer_is_the_likeliest_one(speaking: MLLM, whole: Any) -> None:
    for caption, answer in zip(THREE_CAPTIONS, speaking.answers(THREE_CAPTIONS), strict=True):
        ids = speaking.tokenize([caption])[0][None]
        made = whole.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=torch.zeros_like(ids),
            max_new_tokens=12,
            do_sample=False,
        )
        said = made[0, ids.shape[1] :]
        assert answer.text == speaking.tokenizer.decode(said, skip_special_tokens=True).strip()
        assert answer.ended == (int(said[-1]) == whole.generation_config.eos_token_id)


@torch.no_grad()
def test_states_of_an_answer_are_what_the_model_holds_while_it_says_it(speaking: MLLM, whole: Any) -> None:
    prompts: list[str | Prompt] = [*THREE_CAPTIONS, IMAGE]
    together = speaking.encode(prompts, states="answer")
    for prompt, states_CSH in zip(prompts, together, strict=True):
        (alone_CSH,) = speaking.encode([prompt], states="answer")
        torch.testing.assert_close(states_CSH, alone_CSH, rtol=1e-4, atol=1e-4)
    ids = speaking.tokenize(THREE_CAPTIONS[:1])[0][None]
    made = whole.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=torch.zeros_like(ids),
        max_new_tokens=12,
        do_sample=False,
        output_hidden_states=True,
        return_dict_in_generate=True,
    )
    # The states of step n are of the token that step n - 1 chose; the last token chosen was never fed back.
    steps = torch.stack([torch.cat(step)[:, -1] for step in made.hidden_states[1:]], dim=1)
    torch.testing.assert_close(together[0][:, : steps.shape[1]], steps, rtol=1e-3, atol=1e-4)
    assert together[0].shape[1] == made.sequences.shape[1] - ids.shape[1]


def test_prompt_states_stay_the_same_once_the_head_is_there(speaking: MLLM, mllm: MLLM) -> None:
    speaking.answers(THREE_CAPTIONS[:1])
    for mine, other in zip(speaking.encode(THREE_CAPTIONS), mllm.encode(THREE_CAPTIONS), strict=True):
        assert torch.equal(mine, other)


def test_tokens_of_images_are_counted_apart(mllm: MLLM, mllm_config: MLLMConfig) -> None:
    tight = MLLM(
        mllm.model,
        tokenizer=mllm.tokenizer,
        family=mllm._family,
        config=mllm_config.model_copy(update={"max_tokens": 14, "max_media_tokens": 4}),
    )
    assert tight.encode([IMAGE])[0].shape[1] > 12, "the image's tokens don't count as words"
    with pytest.raises(PromptTooLong, match=r"images, videos and sound of 8 tokens, at most .* = 4"):
        tight.encode([VIDEO])


def test_a_text_only_model_says_that_it_takes_no_images(mllm: MLLM) -> None:
    from x2i_platform.models.families import TEXT_ONLY

    blind = MLLM(mllm.model, tokenizer=mllm.tokenizer, family=TEXT_ONLY, config=mllm._config)
    with pytest.raises(InputError, match=r"'mini:random-qwen2\.5-vl' takes text only, not image"):
        blind.encode([IMAGE])


def test_a_prompt_shows_its_words_or_its_kinds() -> None:
    assert MIXED.text == "like this but with at night"
    assert (IMAGE.text, VIDEO.text) == ("[image]", "[video]")
    assert Prompt.of("a red circle").messages() == [{"role": "user", "content": "a red circle"}]


def test_an_answer_never_holds_a_placeholder_for_pixels(speaking: MLLM) -> None:
    """Random weights like some tokens more than others; here they like the image's most of all."""
    with torch.no_grad():
        head = speaking._with_head().lm_head.weight
        before = head.clone()
        head[speaking.model.config.image_token_id] = 1e3
        head[speaking.model.config.video_token_id] = -1e3
        try:
            states = speaking.encode([*THREE_CAPTIONS, IMAGE, VIDEO], states="answer")
        finally:
            head.copy_(before)
    assert all(torch.isfinite(each).all() for each in states)
