"""The content of a prompt as requests spell it: messages of parts, as in the chats of transformers and of OpenAI.

    [{"type": "text", "text": "in blue"}, {"type": "image", "image": "cat.png", "weight": 0.5}]
    [{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}]
    [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "…"}, {"role": "user", "content": […]}]

A list of parts is one message of the user. Invariants: nothing is fetched here, `fetched` does that where a service
allows it; a file is read only when its part is loaded, through `media`; two parts with the same bytes have the same
identity, wherever the bytes come from.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from x2i_platform.errors import InputError, shown
from x2i_platform.media.limits import LIMITS, read_file
from x2i_platform.models.prompts import Role

Kind = Literal["text", "image", "video", "audio"]
Identity = tuple[tuple[str, str], ...]
"""What decides an image: of each part its kind, and its text or the SHA-256 of its bytes. Roles and weights stand
before what they belong to, where there is a choice."""
ROLES: tuple[Role, ...] = get_args(Role)
MAX_PARTS = 64
MAX_MESSAGES = 64
MAX_TEXT_CHARS = 20_000
MAX_WEIGHT = 10.0
DATA_URL = re.compile(r"data:(?P<medium>image|video|audio)/[\w.+-]+;base64,(?P<data>.*)", re.DOTALL)
MAX_BYTES = {"image": LIMITS.image_bytes, "video": LIMITS.video_bytes, "audio": LIMITS.audio_bytes}
KEYS: dict[str, Kind] = {
    "text": "text",
    "image": "image",
    "image_url": "image",
    "video": "video",
    "video_url": "video",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
}
"""What a part of each type is. The key that holds it has the type's name."""


@dataclass(frozen=True)
class Sources:
    """Where media of a prompt may be, beside in data URLs."""

    folder: Path | None
    """The folder that relative paths are below; without it there are no files."""
    may_fetch: Callable[[str], bool] | None
    """Whether a part may be a certain URL; without it none may."""


@dataclass(frozen=True)
class ContentPart:
    """A part of a prompt: its text, or where its bytes are: a path, a data URL, or a URL that is yet to be fetched."""

    kind: Kind
    value: str
    weight: float = 1.0

    @property
    def name(self) -> str:
        """What error messages call it."""
        return self.value if self.kind == "text" or not self.value.startswith("data:") else f"data URL of {self.kind}"

    def content(self) -> bytes:
        """The bytes of a medium. Raises InputError if they can't be read."""
        if found := DATA_URL.fullmatch(self.value):
            try:
                return base64.b64decode(found["data"], validate=True)
            except (binascii.Error, ValueError):
                raise InputError(f"{self.name} is not base64") from None
        return read_file(Path(self.value), what=self.kind, max_bytes=MAX_BYTES[self.kind])

    def identity(self) -> Identity:
        """What decides the image. Raises InputError as `content` does."""
        if self.kind == "text":
            return ((self.kind, self.value),)
        weight = () if self.weight == 1.0 else (("weight", repr(self.weight)),)
        return (*weight, (self.kind, hashlib.sha256(self.content()).hexdigest()))


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    parts: tuple[ContentPart, ...]


def parse_prompt(
    prompt: Sequence[Any], *, folder: Path | None, may_fetch: Callable[[str], bool] | None = None
) -> tuple[Message, ...]:
    """Parts or messages from JSON; relative paths are below `folder`. Without a folder only data URLs are taken.

    URLs for which `may_fetch` says so stay in their parts; `fetched` then replaces them by what lies there.

    Raises InputError for a part that isn't one, that would have to be fetched, or for messages that end otherwise than
    with the user's.
    """
    sources = Sources(folder, may_fetch)
    if not prompt:
        raise InputError("prompt is an empty list; give a part such as {'type': 'text', 'text': …}")
    if not isinstance(prompt[0], Mapping) or "role" not in prompt[0]:
        return (Message("user", _parts(prompt, place="", sources=sources)),)
    if len(prompt) > MAX_MESSAGES:
        raise InputError(f"prompt has {len(prompt)} messages; at most {MAX_MESSAGES} are taken")
    messages = tuple(_message(each, number=number, sources=sources) for number, each in enumerate(prompt, start=1))
    if messages[-1].role != "user":
        raise InputError(f"the last message is the {messages[-1].role}'s; an image is made for the user's")
    return messages


def identity_of(messages: Sequence[Message]) -> Identity:
    """What decides the image. Raises InputError if a file can't be read."""
    lone = len(messages) == 1 and messages[0].role == "user"
    return tuple(
        one
        for message in messages
        for one in (*(() if lone else (("role", message.role),)), *(i for p in message.parts for i in p.identity()))
    )


def words_of(messages: Sequence[Message]) -> str:
    """The words of the last message; its media alone, such as `[image]`, if it has none."""
    parts = messages[-1].parts
    words = [part.value for part in parts if part.kind == "text" and part.value.strip()]
    return " ".join(words) or " ".join(f"[{part.kind}]" for part in parts if part.kind != "text")


def is_unicode(text: str) -> bool:
    """Whether text can be written as UTF-8: JSON may hold half a surrogate pair, which tokenizers refuse."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _message(message: Any, *, number: int, sources: Sources) -> Message:
    place = f"message {number}"
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        role = shown(str(message.get("role"))) if isinstance(message, Mapping) else type(message).__name__
        raise InputError(f"{place}: {role} is no role; there are {', '.join(ROLES)}")
    if unknown := sorted(set(message) - {"role", "content", "name"}):
        raise InputError(f"{place}: unknown key {shown(str(unknown[0]))}; a message has 'role' and 'content'")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise InputError(f"{place}: 'content' is missing or neither text nor a list of parts")
    return Message(message["role"], _parts(content, place=f"{place}, ", sources=sources))


def _parts(parts: Sequence[Any], *, place: str, sources: Sources) -> tuple[ContentPart, ...]:
    if not 0 < len(parts) <= MAX_PARTS:
        raise InputError(f"{place}prompt has {len(parts)} parts; it may have 1 to {MAX_PARTS}")
    found = tuple(
        _parsed(part, place=f"{place}part {number}", sources=sources) for number, part in enumerate(parts, start=1)
    )
    if not any(part.kind != "text" or part.value.strip() for part in found):
        raise InputError(f"{place}prompt is blank")
    return found


def _parsed(part: Any, *, place: str, sources: Sources) -> ContentPart:
    key = part.get("type") if isinstance(part, Mapping) else None
    if key not in KEYS:
        what = shown(str(key)) if isinstance(part, Mapping) else type(part).__name__
        raise InputError(f"{place}: {what} is no type of part; there are {', '.join(KEYS)}")
    kind = KEYS[key]
    known = {"type", key} | ({"weight"} if kind != "text" else set())
    if unknown := sorted(set(part) - known):
        raise InputError(f"{place}: unknown key {shown(str(unknown[0]))}; a part of type {key} has '{key}'")
    value = _value(part.get(key), key=key, place=place)
    if kind == "text":
        if len(value) > MAX_TEXT_CHARS:
            raise InputError(f"{place}: text of {len(value):,} characters; at most {MAX_TEXT_CHARS:,} are taken")
        return ContentPart(kind, value)
    weight = part.get("weight", 1.0)
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight <= MAX_WEIGHT:
        raise InputError(f"{place}: weight must be a number from 0 to {MAX_WEIGHT:g}, not {shown(str(weight))}")
    return ContentPart(kind, _source(value, kind=kind, place=place, sources=sources), float(weight))


def _value(value: Any, *, key: str, place: str) -> str:
    """The text of a part, its path or its URL. OpenAI's parts hold theirs in an object."""
    if key == "input_audio" and isinstance(value, Mapping):
        if set(value) - {"data", "format"} or not isinstance(value.get("data"), str):
            raise InputError(f"{place}: 'input_audio' has 'data', in base64, and 'format'")
        value = f"data:audio/{value.get('format', 'wav')};base64,{value['data']}"
    elif key.endswith("_url") and isinstance(value, Mapping):
        if unknown := sorted(set(value) - {"url", "detail"}):
            raise InputError(f"{place}: unknown key {shown(str(unknown[0]))} in '{key}'; it has 'url'")
        if value.get("detail", "auto") != "auto":
            raise InputError(f"{place}: 'detail' can only be 'auto': the recipe's media.image_side says how closely")
        value = value.get("url")
    if not isinstance(value, str) or (key != "text" and not value):
        raise InputError(f"{place}: '{key}' is missing or not text")
    if not is_unicode(value):
        raise InputError(f"{place}: '{key}' is not valid Unicode")
    return value


def _source(value: str, *, kind: Kind, place: str, sources: Sources) -> str:
    if value.startswith("data:"):
        found = DATA_URL.fullmatch(value)
        if not found or found["medium"] != kind:
            raise InputError(f"{place}: the data URL must begin with data:{kind}/…;base64,")
        return value
    if "://" in value:
        if sources.may_fetch and sources.may_fetch(value):
            return value
        raise InputError(f"{place}: {shown(value)} is a URL; nothing is fetched, give a file or a data URL")
    if sources.folder is None:
        raise InputError(f"{place}: only data URLs are taken here, such as data:{kind}/…;base64,…")
    return str((sources.folder / value).absolute())
