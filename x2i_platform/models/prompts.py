"""A prompt for an MLLM: one user turn of content parts in order: text, images and videos."""

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
"""Options of a chat template. Only special tokens that the template itself writes count: `<|im_end|>` in a caption
is text."""


@dataclass(frozen=True)
class Prompt:
    """One user turn. A caption becomes one through the recipe's template."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, *parts: Part) -> Self:
        """The parts in order."""
        return cls(parts)

    @property
    def text(self) -> str:
        """The words alone; for a prompt without words its kinds of media, such as `[image]`."""
        words = [part for part in self.parts if isinstance(part, str)]
        return " ".join(words) or " ".join("[video]" if isinstance(part, Video) else "[image]" for part in self.parts)

    @property
    def media(self) -> tuple[Image.Image | Video, ...]:
        """Images and videos, in order."""
        return tuple(part for part in self.parts if not isinstance(part, str))

    def messages(self) -> list[dict[str, Any]]:
        """The chat for a tokenizer's template; plain text if there is nothing else."""
        parts: list[Part] = []
        for is_text, run in itertools.groupby(self.parts, key=lambda part: isinstance(part, str)):
            alike = list(run)
            # Neighbouring texts are joined; otherwise two of them could form a special token together.
            parts += ["".join(map(str, alike))] if is_text else alike
        if len(parts) == 1 and isinstance(parts[0], str):
            return [{"role": "user", "content": parts[0]}]
        return [{"role": "user", "content": [_content(part) for part in parts]}]


@dataclass(frozen=True)
class Inputs:
    """Model inputs of one prompt. `media` holds pixels and grids by the forward's argument names."""

    ids: Tensor
    """`(S,)`, placeholders of images and videos expanded."""
    types: Tensor
    """`(S,)`: text 0, image 1, video 2."""
    media: dict[str, Tensor]

    @property
    def num_media_tokens(self) -> int:
        """Tokens that stand for pixels."""
        return int((self.types > 0).sum())

    def answered(self, answer: Tensor) -> Inputs:
        """The prompt followed by an answer's ids."""
        return Inputs(torch.cat([self.ids, answer]), torch.cat([self.types, torch.zeros_like(answer)]), self.media)


def text_inputs(prompt: Prompt, *, tokenizer: Any) -> Inputs:
    """A prompt without media, in the tokenizer's chat template."""
    ids = tokenizer.apply_chat_template(prompt.messages(), **AS_TEXT, return_dict=False, return_tensors="pt")[0]
    return Inputs(ids, torch.zeros_like(ids), {})


def media_inputs(prompt: Prompt, *, processor: Any, template: str) -> Inputs:
    """A prompt with its images and videos, in a chat template."""
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
    """A batch: ids, attention mask and token types padded to the longest or to `size`, pixels one after the other."""
    size = size or max(len(each.ids) for each in prompts)
    side = "left" if left else "right"

    def padded(rows: list[Tensor], value: int) -> Tensor:
        extended = [*rows, rows[0].new_zeros(size)]  # so that every row reaches `size`
        return pad_sequence(extended, batch_first=True, padding_value=value, padding_side=side)[:-1]

    batch = {
        "input_ids": padded([each.ids for each in prompts], filler),
        "attention_mask": padded([torch.ones_like(each.ids) for each in prompts], 0),
        "mm_token_type_ids": padded([each.types for each in prompts], 0),
    }
    names = dict.fromkeys(name for each in prompts for name in each.media)
    return batch | {name: torch.cat([p.media[name] for p in prompts if name in p.media]) for name in names}


def _content(part: Part) -> dict[str, Any]:
    """One part of a message, pixels included."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Video):
        return {"type": "video", "video": [frame.convert("RGB") for frame in part.frames]}
    return {"type": "image", "image": part.convert("RGB")}
