"""The content of a prompt as requests spell it: a list of parts, as in the chats of transformers and of OpenAI.

    [{"type": "text", "text": "in blue"}, {"type": "image", "image": "cat.png"}, {"type": "video", "video": "a.mp4"}]
    [{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}]

Invariants: nothing is fetched from anywhere; a file is read only when its part is loaded, through `media`; two parts
with the same bytes have the same identity, wherever the bytes come from.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from x2i_platform.config import MediaConfig
from x2i_platform.errors import InputError, shown
from x2i_platform.media.clips import Video
from x2i_platform.media.images import decode_image
from x2i_platform.media.limits import LIMITS, read_file
from x2i_platform.media.videos import decode_video
from x2i_platform.models.prompts import Part, Prompt

Kind = Literal["text", "image", "video"]
MAX_PARTS = 64
MAX_TEXT_CHARS = 20_000
DATA_URL = re.compile(r"data:(?P<medium>image|video)/[\w.+-]+;base64,(?P<data>.*)", re.DOTALL)
MAX_BYTES = {"image": LIMITS.image_bytes, "video": LIMITS.video_bytes}
KEYS: dict[str, tuple[Kind, str]] = {
    "text": ("text", "text"),
    "image": ("image", "image"),
    "image_url": ("image", "image_url"),
    "video": ("video", "video"),
    "video_url": ("video", "video_url"),
}
"""By `type` of a part: what it is, and the key that holds it."""


@dataclass(frozen=True)
class ContentPart:
    """A part of a prompt: its text, or where its bytes are: a path or a data URL."""

    kind: Kind
    value: str

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.value if self.kind == "text" or not self.value.startswith("data:") else f"data URL of {self.kind}"

    def content(self) -> bytes:
        """The bytes of a medium. Raises InputError if they can't be read."""
        if found := DATA_URL.fullmatch(self.value):
            try:
                return base64.b64decode(found["data"], validate=True)
            except (binascii.Error, ValueError):
                raise InputError(f"{self.name} is not base64") from None
        return read_file(Path(self.value), what=self.kind, max_bytes=MAX_BYTES[self.kind])

    def identity(self) -> tuple[str, str]:
        """What decides the image: the text, or the SHA-256 of the bytes. Raises InputError as `content` does."""
        if self.kind == "text":
            return self.kind, self.value
        return self.kind, hashlib.sha256(self.content()).hexdigest()


def parse_content(parts: Sequence[Any], *, folder: Path | None) -> tuple[ContentPart, ...]:
    """Parts from JSON; relative paths are below `folder`. Without a folder only data URLs are taken.

    Raises InputError for a part that isn't one, or that would have to be fetched.
    """
    if not 0 < len(parts) <= MAX_PARTS:
        raise InputError(f"prompt has {len(parts)} parts; it may have 1 to {MAX_PARTS}")
    found = tuple(_parsed(part, place=f"part {number}", folder=folder) for number, part in enumerate(parts, start=1))
    if not any(part.kind != "text" or part.value.strip() for part in found):
        raise InputError("prompt is blank")
    return found


def words_of(parts: Sequence[ContentPart]) -> str:
    """The words of a prompt; its media alone, such as `[image]`, if it has none."""
    words = [part.value for part in parts if part.kind == "text" and part.value.strip()]
    return " ".join(words) or " ".join(f"[{part.kind}]" for part in parts if part.kind != "text")


def load_prompt(parts: Sequence[ContentPart], *, media: MediaConfig) -> Prompt:
    """The prompt with its media decoded and prepared. Raises InputError for a file that can't be used."""
    return Prompt.of(*(_loaded(part, media=media) for part in parts))


def _parsed(part: Any, *, place: str, folder: Path | None) -> ContentPart:
    if not isinstance(part, Mapping) or part.get("type") not in KEYS:
        what = shown(str(part.get("type"))) if isinstance(part, Mapping) else type(part).__name__
        raise InputError(f"{place}: {what} is no type of part; there are {', '.join(KEYS)}")
    kind, key = KEYS[part["type"]]
    if unknown := sorted(set(part) - {"type", key}):
        raise InputError(f"{place}: unknown key {shown(str(unknown[0]))}; a part of type {part['type']} has '{key}'")
    value = part.get(key)
    if key.endswith("_url") and isinstance(value, Mapping):
        value = value.get("url")
    if not isinstance(value, str) or (kind != "text" and not value):
        raise InputError(f"{place}: '{key}' is missing or not text")
    if kind == "text":
        if len(value) > MAX_TEXT_CHARS:
            raise InputError(f"{place}: text of {len(value):,} characters; at most {MAX_TEXT_CHARS:,} are taken")
        return ContentPart(kind, value)
    return ContentPart(kind, _source(value, kind=kind, place=place, folder=folder))


def _source(value: str, *, kind: Kind, place: str, folder: Path | None) -> str:
    if value.startswith("data:"):
        found = DATA_URL.fullmatch(value)
        if not found or found["medium"] != kind:
            raise InputError(f"{place}: the data URL must begin with data:{kind}/…;base64,")
        return value
    if "://" in value:
        raise InputError(f"{place}: {shown(value)} is a URL; nothing is fetched, give a file or a data URL")
    if folder is None:
        raise InputError(f"{place}: only data URLs are taken here, such as data:{kind}/…;base64,…")
    return str((folder / value).absolute())


def _loaded(part: ContentPart, *, media: MediaConfig) -> Part:
    if part.kind == "text":
        return part.value
    if part.kind == "image":
        return prepared(decode_image(part.content(), name=part.name), media=media)
    video = decode_video(part.content(), name=part.name, fps=media.video_fps, max_frames=media.video_frames)
    return Video(tuple(prepared(frame, media=media) for frame in video.frames), fps=video.fps)


def prepared(image: Image.Image, *, media: MediaConfig) -> Image.Image:
    """An image as the recipe wants it: a square of `image_side` pixels, or as it is."""
    if media.image_side is None:
        return image
    return image.resize((media.image_side, media.image_side), Image.Resampling.BICUBIC)
