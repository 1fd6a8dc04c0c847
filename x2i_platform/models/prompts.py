"""What an MLLM is asked: content parts in order, text, images and videos, as one user turn.

Audio joins as one more part type here and one more branch in `Prompt.inputs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Video:
    """Frames in order, and how many of them make a second."""

    frames: tuple[Image.Image, ...]
    fps: float = 1.0


Part = str | Image.Image | Video


@dataclass(frozen=True)
class Prompt:
    """One user turn, already worded; a caption becomes one through the recipe's template."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, *parts: Part) -> Self:
        """The parts in order."""
        return cls(parts)

    @property
    def text(self) -> str:
        """The words alone; of a prompt without any, its kinds, such as `[image]`."""
        words = [part for part in self.parts if isinstance(part, str)]
        return " ".join(words) or " ".join(f"[{_kind(part)}]" for part in self.parts)

    @property
    def media(self) -> tuple[Image.Image | Video, ...]:
        """Images and videos, in order."""
        return tuple(part for part in self.parts if not isinstance(part, str))

    def messages(self) -> list[dict[str, Any]]:
        """The chat that a tokenizer's template renders: plain text where there is nothing else."""
        if len(self.parts) == 1 and isinstance(self.parts[0], str):
            return [{"role": "user", "content": self.parts[0]}]
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": _kind(part)} for part in self.parts
        ]
        return [{"role": "user", "content": content}]


@dataclass(frozen=True)
class Inputs:
    """What a model takes of one prompt. `media` holds its pixels and grids by the forward's argument names."""

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


def text_inputs(text: str, *, tokenizer: Any) -> Inputs:
    """A rendered chat without media; the template wrote the special tokens."""
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
    return Inputs(ids, torch.zeros_like(ids), {})


def media_inputs(text: str, *, media: tuple[Image.Image | Video, ...], processor: Any) -> Inputs:
    """A rendered chat with its images and videos."""
    images = [part.convert("RGB") for part in media if isinstance(part, Image.Image)]
    videos = [part for part in media if isinstance(part, Video)]
    kinds: dict[str, Any] = {"images": images} if images else {}
    if videos:
        kinds["videos"] = [[frame.convert("RGB") for frame in video.frames] for video in videos]
        kinds["video_metadata"] = [
            {"total_num_frames": len(v.frames), "fps": v.fps, "frames_indices": list(range(len(v.frames)))}
            for v in videos
        ]
    made = processor(text=[text], add_special_tokens=False, return_tensors="pt", **kinds)
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


def _kind(part: Image.Image | Video | str) -> str:
    return "video" if isinstance(part, Video) else "image"
