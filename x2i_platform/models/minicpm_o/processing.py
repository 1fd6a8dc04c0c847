"""Messages of text, pictures, videos and sound in; token ids, token types and what the towers read out.

The tokens around placeholders are those that the released `processing_minicpmo.py` writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from x2i_platform.models.minicpm_o.audio import num_tokens

KINDS = {"image": 1, "video": 2, "audio": 3}
"""Token types of placeholders."""
POOL = 2
"""Audio frames a token, `audio_pool_step` of the released config; the released processor has it as a number too."""
CHUNK_TOKENS = 25
"""Audio tokens between two marks: one second."""
LONGEST_PIECE_S = 30

PARTS_AS_TEXT = """
{%- set whole = namespace(messages=[]) %}
{%- for message in messages %}
  {%- set parts = namespace(texts=[]) %}
  {%- for part in ([] if message.content is string else message.content) %}
    {%- set parts.texts = parts.texts + [part.text if part.type == 'text' else marks[part.type]] %}
  {%- endfor %}
  {%- set content = message.content if message.content is string else parts.texts | join('\n') %}
  {%- set whole.messages = whole.messages + [dict(message, content=content)] %}
{%- endfor %}
{%- set messages = whole.messages %}
""".strip()
"""The released chat template takes strings. Before it, a message's parts are joined by newlines, as the released
`chat` joins them."""


class MiniCPMOProcessor(ProcessorMixin):
    """The processor of MiniCPM-o 2.6.

    Options of a call, in `processor_kwargs` of `apply_chat_template`: `max_slice_nums` and `use_image_id` for pictures.
    Frames of videos are never cut and have no ids.
    """

    # Special tokens of the released vocabulary stand for a medium until it is expanded: user text can't write them.
    image_token = "<image>"
    video_token = "<|video_pad|>"
    audio_token = "<|audio|>"
    max_audio_s = math.inf
    """Longer sound than a piece is cut into several."""
    _written = (
        *("<unk>", "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"),
        *("<|video_pad|>", "<|audio|>", "<|audio_start|>", "<|audio_end|>"),
    )

    def __init__(
        self, image_processor: Any, feature_extractor: Any, tokenizer: Any, chat_template: str | None = None, **_: Any
    ) -> None:
        """Raise ValueError if the tokenizer lacks one of the tokens that this processor writes."""
        super().__init__(image_processor, feature_extractor, tokenizer, chat_template=chat_template)
        vocabulary = tokenizer.get_vocab()
        if missing := [token for token in self._written if token not in vocabulary]:
            raise ValueError(f"the tokenizer lacks {', '.join(missing)}; it isn't that of MiniCPM-o 2.6")

    def apply_chat_template(
        self, conversation: list[Any], chat_template: str | None = None, **options: Any
    ) -> BatchFeature | str | Tensor:
        """Do what transformers' own does, also with templates that take strings alone; the tokenizer's by default."""
        template = chat_template or self.chat_template or self.tokenizer.get_chat_template()
        marks = {"image": self.image_token, "video": self.video_token, "audio": self.audio_token}
        prelude = f"{{%- set marks = {marks} %}}{PARTS_AS_TEXT}"
        made: BatchFeature | str | Tensor = super().apply_chat_template(
            conversation, chat_template=prelude + template, **options
        )
        return made

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **options: Any
    ) -> BatchFeature:
        """Tokenize texts that hold a mark for every medium; images and videos are one list a text, sound is one list.

        Returns `input_ids`, `attention_mask`, `mm_token_type_ids`, and what the model's forward takes. Texts must have
        equal lengths if tensors are asked for. Raises ValueError if marks and media differ in number.
        """
        texts = [text] if isinstance(text, str) else list(text)
        images, videos, sounds = list(images or []), list(videos or []), list(audio or [])
        max_slice_nums = options.get("max_slice_nums")
        media: dict[str, Tensor] = {}
        if pictures := list(chain(*images)):
            cut = self.image_processor.patches(pictures, max_slice_nums=max_slice_nums)
            media["pixel_values"], media["target_sizes"] = cut
        if frames := list(chain(*chain(*videos))):
            cut = self.image_processor.patches(frames, max_slice_nums=1)
            media["pixel_values_videos"], media["target_sizes_videos"] = cut
        if sounds:
            media["audio_features"], media["audio_feature_lens"] = self._spectrograms(sounds)
        written = {
            "image": [self._picture(image, place, options) for some in images for place, image in enumerate(some)],
            "video": ["\n".join([self._framed("image")] * len(frames)) for frames in chain(*videos)],
            "audio": [self._sound(sound) for sound in sounds],
        }
        expanded, kinds = self._expand(texts, written)
        tokenized = self.tokenizer(
            expanded,
            add_special_tokens=False,
            sanitize_control_tokens=bool(options.get("sanitize_control_tokens")),
        )
        types = [self._types(ids, of=some) for ids, some in zip(tokenized["input_ids"], kinds, strict=True)]
        data = {**tokenized, "mm_token_type_ids": types, **media}
        return BatchFeature(data, tensor_type=options.get("return_tensors"))

    def _expand(self, texts: list[str], written: dict[str, list[str]]) -> tuple[list[str], list[list[int]]]:
        """Return the texts with media expanded, and for each the token types of its placeholders in order."""
        try:
            expanded, changes = self.get_text_with_replacements(
                list(texts), written["image"], written["video"], written["audio"]
            )
        except StopIteration:
            raise ValueError("a text has more marks than there are media") from None
        marks = sum(len(some) for some in changes)
        if marks != (count := sum(map(len, written.values()))):
            raise ValueError(f"texts have {marks} marks for {count} images, videos and sounds")
        kinds = [
            [KINDS[change["type"]] for change in some for _ in range(change["replacement"].count("<unk>"))]
            for some in changes
        ]
        return expanded, kinds

    def _types(self, ids: list[int], *, of: list[int]) -> list[int]:
        """Return the type of each token. Raises ValueError if the text has placeholders of its own."""
        unknown = self.tokenizer.convert_tokens_to_ids("<unk>")
        if (count := ids.count(unknown)) != len(of):
            raise ValueError(f"the text has {count} tokens <unk>, its media {len(of)}; text can't have <unk>")
        kinds = iter(of)
        return [next(kinds) if token == unknown else 0 for token in ids]

    def _framed(self, name: str) -> str:
        """Return the placeholders of one overview or slice between its marks."""
        return f"<{name}>{'<unk>' * self.image_processor.image_feature_size}</{name}>"

    def _picture(self, image: Image.Image, place: int, options: dict[str, Any]) -> str:
        """Return what stands for a picture, the `place`-th of its text: its id, the overview and rows of slices."""
        grid = self.image_processor.slicing(options.get("max_slice_nums")).grid(image.size)
        columns, rows = grid or (0, 0)
        use_image_id = options.get("use_image_id")
        with_id = self.image_processor.use_image_id if use_image_id is None else use_image_id
        name = f"<image_id>{place}</image_id>" if with_id else ""
        return name + self._framed("image") + "\n".join([self._framed("slice") * columns] * rows)

    def _sound(self, samples: NDArray[np.float32]) -> str:
        """Return what stands for a sound: its tokens, a second at a time. Raises ValueError if it is too short."""
        count = num_tokens(-(-len(samples) // self.feature_extractor.hop_length), pool=POOL)
        if count < 1:
            raise ValueError(f"sound of {len(samples)} samples is too short: it gives no token")
        seconds = [min(CHUNK_TOKENS, count - start) for start in range(0, count, CHUNK_TOKENS)]
        return "".join(f"<|audio_start|>{'<unk>' * length}<|audio_end|>" for length in seconds)

    def _spectrograms(self, sounds: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
        """Return mel frames `(frames, bins)` of all sounds, cut into pieces of 30 s, and the frames of each piece."""
        rate = self.feature_extractor.sampling_rate
        step = LONGEST_PIECE_S * rate
        pieces = [sound[start : start + step] for sound in sounds for start in range(0, len(sound), step)]
        made = self.feature_extractor(
            pieces, sampling_rate=rate, padding="max_length", return_attention_mask=True, return_tensors="pt"
        )
        lengths = made["attention_mask"].sum(dim=1)
        frames = [mels[:, :length].T for mels, length in zip(made["input_features"], lengths.tolist(), strict=True)]
        return torch.cat(frames), lengths
