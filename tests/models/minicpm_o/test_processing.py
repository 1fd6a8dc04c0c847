"""Texts, ids and types for media, against texts written out by hand as the released processor writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from x2i_platform.mini.random.minicpm_o import QUERIES, SYSTEM
from x2i_platform.models.minicpm_o.processing import MiniCPMOProcessor

PICTURE = {"type": "image", "image": Image.new("RGB", (50, 50), "red")}
WIDE = {"type": "image", "image": Image.new("RGB", (112, 56), "blue")}
"""Two squares: an overview and two slices side by side."""
TALL = {"type": "image", "image": Image.new("RGB", (56, 112), "blue")}
CLIP = {"type": "video", "video": [Image.new("RGB", (112, 56), colour) for colour in ("red", "blue", "green")]}
UNK = "<unk>" * QUERIES
SECOND = "<|audio_start|>" + "<unk>" * 25 + "<|audio_end|>"


def sound(samples: int) -> dict[str, Any]:
    return {"type": "audio", "audio": noise(samples)}


def noise(samples: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(samples).astype(np.float32)


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def made(processor: Any, *parts: dict[str, Any], **options: Any) -> Any:
    return processor.apply_chat_template(
        [{"role": "user", "content": list(parts)}],
        tokenize=True,
        add_generation_prompt=True,
        sanitize_control_tokens=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
    )


def chat(content: str) -> str:
    start = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    return f"{start}{content}<|im_end|>\n<|im_start|>assistant\n"


def content(processor: Any, inputs: Any) -> str:
    """What stands between the user's marks."""
    text = str(processor.tokenizer.decode(inputs["input_ids"][0]))
    before, after = chat("\0").split("\0")
    assert text.startswith(before)
    assert text.endswith(after)
    return text[len(before) : len(text) - len(after)]


@pytest.mark.parametrize(
    ("parts", "options", "expected"),
    [
        ([words("hello")], {}, "hello"),
        ([PICTURE], {}, f"<image_id>0</image_id><image>{UNK}</image>"),
        (
            [PICTURE, words("like"), WIDE],
            {},
            f"<image_id>0</image_id><image>{UNK}</image>\nlike\n<image_id>1</image_id><image>{UNK}</image>"
            f"<slice>{UNK}</slice><slice>{UNK}</slice>",
        ),
        ([TALL], {}, f"<image_id>0</image_id><image>{UNK}</image><slice>{UNK}</slice>\n<slice>{UNK}</slice>"),
        # as X2I's own script asks for pictures
        ([WIDE, words("x")], {"max_slice_nums": 1, "use_image_id": False}, f"<image>{UNK}</image>\nx"),
        ([CLIP, words("x")], {}, "\n".join([f"<image>{UNK}</image>"] * 3 + ["x"])),
        ([sound(16_000)], {}, SECOND),
        ([sound(40_000)], {}, SECOND + SECOND + "<|audio_start|>" + "<unk>" * 12 + "<|audio_end|>"),
    ],
)
def test_texts(processor: Any, parts: list[dict[str, Any]], options: dict[str, Any], expected: str) -> None:
    inputs = made(processor, *parts, **options)
    assert content(processor, inputs) == expected
    placeholders = inputs["input_ids"][0] == processor.tokenizer.convert_tokens_to_ids("<unk>")
    assert torch.equal(inputs["mm_token_type_ids"][0] > 0, placeholders)
    assert inputs["attention_mask"].all()


def test_types_tell_kinds_apart(processor: Any) -> None:
    inputs = made(processor, sound(16_000), CLIP, WIDE, words("x"), PICTURE)
    types = inputs["mm_token_type_ids"][0]
    assert types[types > 0].tolist() == [3] * 25 + [2] * 3 * QUERIES + [1] * 4 * QUERIES
    assert inputs["target_sizes"].tolist() == [[3, 6], [4, 4], [4, 4], [4, 4]]
    assert inputs["target_sizes_videos"].tolist() == [[3, 6]] * 3
    assert len(inputs["pixel_values"]) == 18 + 3 * 16
    assert len(inputs["pixel_values_videos"]) == 3 * 18
    assert inputs["audio_feature_lens"].tolist() == [100]
    assert inputs["audio_features"].shape == (100, 80)


@pytest.mark.parametrize(
    ("samples", "tokens", "pieces"),
    [
        (401, 1, [3]),
        (16_000, 25, [100]),
        (16_001, 25, [101]),
        (30 * 16_000, 750, [3000]),
        (30 * 16_000 + 1, 750, [3000, 1]),  # the rest of one sample gives no token
        (31 * 16_000, 775, [3000, 100]),
        (65 * 16_000, 1625, [3000, 3000, 500]),
    ],
)
def test_lengths_of_sound(processor: Any, samples: int, tokens: int, pieces: list[int]) -> None:
    inputs = made(processor, sound(samples))
    assert int((inputs["mm_token_type_ids"] == 3).sum()) == tokens
    assert inputs["audio_feature_lens"].tolist() == pieces
    assert len(inputs["audio_features"]) == sum(pieces)


def test_spectrograms_are_whispers(processor: Any) -> None:
    samples = noise(8_000)
    found = made(processor, {"type": "audio", "audio": samples})["audio_features"]
    whisper = transformers.WhisperFeatureExtractor()(samples, sampling_rate=16_000, return_tensors="pt")
    torch.testing.assert_close(found.T, whisper["input_features"][0, :, :50])


def test_what_a_user_writes_is_text(processor: Any) -> None:
    written = "<image> </image> <|audio|> <|video_pad|> <unk> <|im_end|>"
    inputs = made(processor, words(written), PICTURE)
    assert content(processor, inputs) == f"{written}\n<image_id>0</image_id><image>{UNK}</image>"
    assert int((inputs["mm_token_type_ids"] > 0).sum()) == QUERIES


def test_messages_of_several_turns(processor: Any) -> None:
    inputs = processor.apply_chat_template(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [PICTURE, words("this")]},
            {"role": "assistant", "content": "Red."},
            {"role": "user", "content": [words("and this?"), PICTURE]},
        ],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    assert processor.tokenizer.decode(inputs["input_ids"][0]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n<image_id>0</image_id><image>{UNK}</image>\nthis<|im_end|>\n"
        "<|im_start|>assistant\nRed.<|im_end|>\n"
        f"<|im_start|>user\nand this?\n<image_id>1</image_id><image>{UNK}</image><|im_end|>\n"
    )
    assert len(inputs["target_sizes"]) == 2


def test_bad_calls_are_refused(processor: Any) -> None:
    picture = PICTURE["image"]
    with pytest.raises(ValueError, match="a text has more marks than there are media"):
        processor(text="<image> and <image>", images=[[picture]])
    with pytest.raises(ValueError, match="texts have 1 marks for 2 images, videos and sounds"):
        processor(text="<image>", images=[[picture, picture]])
    with pytest.raises(ValueError, match=r"the text has 5 tokens <unk>, its media 4; text can't have <unk>"):
        processor(text="<image> <unk>", images=[[picture]])
    with pytest.raises(ValueError, match="sound of 320 samples is too short: it gives no token"):
        made(processor, sound(320))


def test_another_tokenizer_is_refused(processor: Any, qwen_folder: Path) -> None:
    other = transformers.AutoTokenizer.from_pretrained(qwen_folder)
    with pytest.raises(ValueError, match=r"the tokenizer lacks <unk>, <image>, .*; it isn't that of MiniCPM-o 2\.6"):
        MiniCPMOProcessor(processor.image_processor, processor.feature_extractor, other)


def test_it_is_saved_and_read_again(processor: Any, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    again = transformers.AutoProcessor.from_pretrained(tmp_path)
    parts = [WIDE, words("x"), sound(20_000), CLIP]
    expected, found = made(processor, *parts), made(again, *parts)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name])
