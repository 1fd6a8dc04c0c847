"""Prompts for an MLLM: turns of text, images, videos and sound in order, and the inputs that a model takes of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from x2i_platform.errors import InputError
from x2i_platform.media.clips import Audio, Video
from x2i_platform.models.families import MediaKind

Role = Literal["system", "user", "assistant"]
Medium = Image.Image | Video | Audio

AS_TEXT: dict[str, Any] = {"tokenize": True, "add_generation_prompt": True, "sanitize_control_tokens": True}
"""Only special tokens that the template writes count as such: `<|im_end|>` in a caption is plain text."""


@dataclass(frozen=True)
class Weighted:
    """A medium whose tokens' hidden states are multiplied by `weight`, to mix several in one image."""

    medium: Medium
    weight: float


Part = str | Medium | Weighted


@dataclass(frozen=True)
class Turn:
    """What one side says, as parts in order."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Prompt:
    """A dialogue up to the MLLM's next answer; usually one user turn. The recipe's template turns a caption into one.

    It is used as it stands: nothing is put around its text.
    """

    turns: tuple[Turn, ...]

    @classmethod
    def of(cls, *parts: Part) -> Self:
        """Make a prompt of one user turn with these parts, in order."""
        return cls((Turn("user", parts),))

    @property
    def text(self) -> str:
        """The text parts of the last turn, or without any the kinds of its parts, such as `[image]`."""
        parts = self.turns[-1].parts
        words = [part for part in parts if isinstance(part, str)]
        return " ".join(words) or " ".join(f"[{kind_of(medium)}]" for medium in map(_medium, parts) if medium)

    @property
    def media(self) -> tuple[Medium, ...]:
        """Images, videos and sound of all turns, in order."""
        return tuple(medium for turn in self.turns for medium in map(_medium, turn.parts) if medium)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each of the media."""
        parts = (part for turn in self.turns for part in turn.parts if not isinstance(part, str))
        return tuple(part.weight if isinstance(part, Weighted) else 1.0 for part in parts)

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages for a chat template. A turn of text alone has a plain string as content."""
        return [{"role": turn.role, "content": _content(turn.parts)} for turn in self.turns]


def kind_of(medium: Medium) -> MediaKind:
    """Return the name of a medium's kind."""
    return "video" if isinstance(medium, Video) else "audio" if isinstance(medium, Audio) else "image"


@dataclass(frozen=True)
class Inputs:
    """Model inputs of one prompt. `media` holds pixels, grids and spectrograms under the names that the forward has."""

    ids: Tensor
    """Token ids `(S,)`, with the placeholders of media expanded."""
    types: Tensor
    """Token types `(S,)`: text 0, image 1, video 2, sound 3."""
    media: dict[str, Tensor]
    factors: Tensor | None = None
    """What each token's hidden states are multiplied by, `(S,)`; None for 1."""

    @property
    def num_media_tokens(self) -> int:
        """Number of placeholder tokens of media."""
        return int((self.types > 0).sum())

    def answered(self, answer: Tensor) -> Inputs:
        """Return the prompt with an answer's ids appended."""
        factors = None if self.factors is None else torch.cat([self.factors, self.factors.new_ones(len(answer))])
        types = torch.cat([self.types, torch.zeros_like(answer)])
        return Inputs(torch.cat([self.ids, answer]), types, self.media, factors)


def text_inputs(prompt: Prompt, *, tokenizer: Any) -> Inputs:
    """Tokenize a prompt without media in the tokenizer's chat template."""
    ids = tokenizer.apply_chat_template(prompt.messages(), **AS_TEXT, return_dict=False, return_tensors="pt")[0]
    return Inputs(ids, torch.zeros_like(ids), {})


def media_inputs(prompt: Prompt, *, processor: Any, template: str) -> Inputs:
    """Tokenize a prompt with media in a chat template, and preprocess its pixels and its sound.

    Raises InputError for sound at another rate than the processor's, or longer than it takes: it would cut it off.
    """
    videos = [medium for medium in prompt.media if isinstance(medium, Video)]
    kinds: dict[str, Any] = {"add_special_tokens": False, "return_mm_token_type_ids": True}
    if videos:
        kinds["video_metadata"] = [
            {"total_num_frames": len(v.frames), "fps": v.fps, "frames_indices": list(range(len(v.frames)))}
            for v in videos
        ]
    for sound in (medium for medium in prompt.media if isinstance(medium, Audio)):
        if sound.sampling_rate != (rate := processor.feature_extractor.sampling_rate):
            raise InputError(f"sound at {sound.sampling_rate} samples a second; this MLLM hears {rate}")
        # A processor that cuts longer sound into pieces says so; the others would drop what is beyond.
        longest = getattr(processor, "max_audio_s", processor.feature_extractor.chunk_length)
        if sound.seconds > longest:
            raise InputError(f"sound of {sound.seconds:.1f} s; this MLLM hears at most {longest} s")
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
    if "video_second_per_grid" in media_tensors:
        # Qwen2.5-Omni's processor takes two frames a second for granted, whatever the metadata say.
        frames = processor.video_processor.temporal_patch_size
        media_tensors["video_second_per_grid"] = torch.tensor([frames / video.fps for video in videos])
    return Inputs(made["input_ids"][0], torch.as_tensor(made["mm_token_type_ids"])[0], media_tensors)


def weigh(inputs: Inputs, *, prompt: Prompt, num_tokens: Callable[[Medium], int]) -> Inputs:
    """Return the inputs with a factor for every token, from the weights of the media.

    `num_tokens` tells how many placeholder tokens a medium has alone; in a prompt it has as many.
    """
    if all(weight == 1.0 for weight in prompt.weights):
        return inputs
    counts = torch.tensor([num_tokens(medium) for medium in prompt.media])
    factors = torch.ones(len(inputs.ids))
    factors[inputs.types > 0] = torch.tensor(prompt.weights).repeat_interleave(counts)
    return Inputs(inputs.ids, inputs.types, inputs.media, factors)


def collate(
    prompts: list[Inputs], *, size: int | None = None, left: bool = False, filler: int = 0, joined_on: int = 0
) -> dict[str, Tensor]:
    """Batch prompts: pad ids, mask and types to the longest or to `size`; concatenate media.

    `joined_on` is the axis on which pixels are concatenated; other tensors are on their first.
    """
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
    for name in names:
        axis = joined_on if name.startswith("pixel_values") else 0
        batch[name] = torch.cat([each.media[name] for each in prompts if name in each.media], dim=axis)
    return batch


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    """Return a message's content. Neighbouring texts are joined: two could make up a special token together."""
    joined: list[dict[str, Any]] = []
    for is_text, run in itertools.groupby(parts, key=lambda part: isinstance(part, str)):
        if is_text:
            joined.append({"type": "text", "text": "".join(map(str, run))})
        else:
            joined += [_shown(medium) for medium in map(_medium, run) if medium]
    if len(joined) == 1 and joined[0]["type"] == "text":
        return str(joined[0]["text"])
    return joined


def _medium(part: Part) -> Medium | None:
    """Return the medium of a part; None for text."""
    return part.medium if isinstance(part, Weighted) else None if isinstance(part, str) else part


def _shown(medium: Medium) -> dict[str, Any]:
    """Return a medium as the chat template and the processor take it."""
    if isinstance(medium, Video):
        return {"type": "video", "video": [frame.convert("RGB") for frame in medium.frames]}
    if isinstance(medium, Audio):
        return {"type": "audio", "audio": np.asarray(medium.samples, dtype=np.float32)}
    return {"type": "image", "image": medium.convert("RGB")}
