"""Prompts for an MLLM: text, images and videos in order, as one user turn.

Audio would be one more part type here and one more branch in `_content` and `media_inputs`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from x2i_platform.media.clips import Video

Part = str | Image.Image | Video

AS_TEXT: dict[str, Any] = {"tokenize": True, "add_generation_prompt": True, "sanitize_control_tokens": True}
"""Only special tokens that the template writes count as such: `<|im_end|>` in a caption is plain text."""


@dataclass(frozen=True)
class Prompt:
    """One complete user turn. The recipe's template turns a caption into one."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, *parts: Part) -> Self:
        """Make a prompt of these parts, in order."""
        return cls(parts)

    @property
    def text(self) -> str:
        """The text parts, or without any the kinds of the parts, such as `[image]`."""
        words = [part for part in self.parts if isinstance(part, str)]
        return " ".join(words) or " ".join("[video]" if isinstance(part, Video) else "[image]" for part in self.parts)

    @property
    def media(self) -> tuple[Image.Image | Video, ...]:
        """Images and videos, in order."""
        return tuple(part for part in self.parts if not isinstance(part, str))

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages for a tokenizer's chat template. A prompt of text alone has a plain string as content."""
        parts: list[Part] = []
        for is_text, run in itertools.groupby(self.parts, key=lambda part: isinstance(part, str)):
            alike = list(run)
            # Join neighbouring texts first: two texts could make up a special token together.
            parts += ["".join(map(str, alike))] if is_text else alike
        if len(parts) == 1 and isinstance(parts[0], str):
            return [{"role": "user", "content": parts[0]}]
        return [{"role": "user", "content": [_content(part) for part in parts]}]


@dataclass(frozen=True)
class Inputs:
    """Model inputs of one prompt. `media` holds pixels and grids under the names of the forward's arguments."""

    ids: Tensor
    """Token ids `(S,)`, with the placeholders of images and videos expanded."""
    types: Tensor
    """Token types `(S,)`: text 0, image 1, video 2."""
    media: dict[str, Tensor]

    @property
    def num_media_tokens(self) -> int:
        """Number of placeholder tokens of images and videos."""
        return int((self.types > 0).sum())

    def answered(self, answer: Tensor) -> Inputs:
        """Return the prompt with an answer's ids appended."""
        return Inputs(torch.cat([self.ids, answer]), torch.cat([self.types, torch.zeros_like(answer)]), self.media)


def text_inputs(prompt: Prompt, *, tokenizer: Any) -> Inputs:
    """Tokenize a prompt without media in the tokenizer's chat template."""
    ids = tokenizer.apply_chat_template(prompt.messages(), **AS_TEXT, return_dict=False, return_tensors="pt")[0]
    return Inputs(ids, torch.zeros_like(ids), {})


def media_inputs(prompt: Prompt, *, processor: Any, template: str) -> Inputs:
    """Tokenize a prompt with images or videos in a chat template, and preprocess its pixels."""
    videos = [part for part in prompt.parts if isinstance(part, Video)]
    kinds: dict[str, Any] = {"add_special_tokens": False}
    if videos:
        kinds["video_metadata"] = [
            {"total_num_frames": len(v.frames), "fps": v.fps, "frames_indices": list(range(len(v.frames)))}
            for v in videos
        ]
    made = processor.apply_chat_template(
        prompt.messages(),
        chat_template=template,
        **AS_TEXT,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=kinds,
    )
    taken = {"input_ids", "attention_mask", "mm_token_type_ids"}
    media_tensors = {name: torch.as_tensor(value) for name, value in made.items() if name not in taken}
    return Inputs(made["input_ids"][0], made["mm_token_type_ids"][0], media_tensors)


def collate(
    prompts: list[Inputs], *, size: int | None = None, left: bool = False, filler: int = 0
) -> dict[str, Tensor]:
    """Batch prompts: pad ids, mask and types to the longest or to `size`; concatenate pixels."""
    size = size or max(len(each.ids) for each in prompts)
    side = "left" if left else "right"

    def padded(rows: list[Tensor], value: int) -> Tensor:
        extended = [*rows, rows[0].new_zeros(size)]  # makes `pad_sequence` pad every row to `size`
        return pad_sequence(extended, batch_first=True, padding_value=value, padding_side=side)[:-1]

    batch = {
        "input_ids": padded([each.ids for each in prompts], filler),
        "attention_mask": padded([torch.ones_like(each.ids) for each in prompts], 0),
        "mm_token_type_ids": padded([each.types for each in prompts], 0),
    }
    names = dict.fromkeys(name for each in prompts for name in each.media)
    return batch | {name: torch.cat([p.media[name] for p in prompts if name in p.media]) for name in names}


def _content(part: Part) -> dict[str, Any]:
    """Return one part of a message as the chat template and the processor take it."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Video):
        return {"type": "video", "video": [frame.convert("RGB") for frame in part.frames]}
    return {"type": "image", "image": part.convert("RGB")}
