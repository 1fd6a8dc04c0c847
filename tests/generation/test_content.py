"""Parts of a prompt, as transformers and OpenAI spell them: read from files or data URLs, never from a network."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.media import hostile
from x2i_platform.errors import InputError
from x2i_platform.generation.content import ContentPart, identity_of, parse_prompt, words_of

PICTURE = hostile.picture()
SOUND = hostile.sound()


def data_url(content: bytes, medium: str = "image/png") -> str:
    return f"data:{medium};base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cat.png").write_bytes(PICTURE)
    (tmp_path / "a.wav").write_bytes(SOUND)
    return tmp_path


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "cat.png"},
        {"type": "image_url", "image_url": {"url": "cat.png", "detail": "auto"}},
        {"type": "image_url", "image_url": "cat.png"},
        {"type": "image", "image": data_url(PICTURE), "weight": 1},
        {"type": "image_url", "image_url": {"url": data_url(PICTURE)}},
    ],
)
def test_every_spelling_is_the_same_picture(part: dict[str, Any], folder: Path) -> None:
    messages = parse_prompt([{"type": "text", "text": "in blue"}, part], folder=folder)
    plain = parse_prompt([{"type": "text", "text": "in blue"}, {"type": "image", "image": "cat.png"}], folder=folder)
    assert words_of(messages) == "in blue"
    assert identity_of(messages) == identity_of(plain)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "audio", "audio": "a.wav"},
        {"type": "audio_url", "audio_url": {"url": data_url(SOUND, "audio/wav")}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(SOUND).decode(), "format": "wav"}},
    ],
)
def test_every_spelling_is_the_same_sound(part: dict[str, Any], folder: Path) -> None:
    messages = parse_prompt([part], folder=folder)
    assert identity_of(messages) == (("audio", hashlib.sha256(SOUND).hexdigest()),)
    assert words_of(messages) == "[audio]"


def test_messages_are_a_dialogue(folder: Path) -> None:
    said = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": [{"type": "image", "image": "cat.png"}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [{"type": "text", "text": "in "}, {"type": "text", "text": "blue"}]},
    ]
    messages = parse_prompt(said, folder=folder)
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert words_of(messages) == "in  blue"
    kinds = [kind for kind, _ in identity_of(messages)]
    assert kinds == ["role", "text", "role", "image", "role", "text", "role", "text", "text"]
    one, text = identity_of(parse_prompt(said[3:], folder=folder)), (("text", "in "), ("text", "blue"))
    assert one == text, "a lone message of the user is its parts"
    assert identity_of(parse_prompt([*said[:2], *said[3:]], folder=folder)) != identity_of(messages)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "an empty list"),
        ([{"type": "text", "text": "a"}] * 65, "65 parts"),
        ([{"type": "text", "text": "  "}], "blank"),
        (["a cat"], "part 1: str is no type of part"),
        ([{"type": "smell"}], "part 1: 'smell' is no type of part; there are text, image"),
        ([{"type": "text", "text": "a"}, {"type": "image"}], "part 2: 'image' is missing"),
        ([{"type": "image", "image": "a.png", "detail": "high"}], "unknown key 'detail'"),
        ([{"type": "image_url", "image_url": {"url": "a.png", "detail": "high"}}], "'detail' can only be 'auto'"),
        ([{"type": "image_url", "image_url": {"url": "a.png", "size": 3}}], "unknown key 'size'"),
        ([{"type": "input_audio", "input_audio": {"url": "a.wav"}}], "'input_audio' has 'data', in base64"),
        ([{"type": "input_audio", "input_audio": {"data": 5, "format": "wav"}}], "'input_audio' has 'data', in base64"),
        ([{"type": "input_audio", "input_audio": {"data": "", "format": "/"}}], "must begin with data:audio/"),
        ([{"type": "image", "image": "https://example.com/a.png"}], "nothing is fetched"),
        ([{"type": "image", "image": "file:///etc/hostname"}], "nothing is fetched"),
        ([{"type": "image", "image": data_url(PICTURE, "video/mp4")}], "data:image/"),
        ([{"type": "image", "image": "a.png", "weight": -1}], "weight must be a number from 0 to 10, not '-1'"),
        ([{"type": "image", "image": "a.png", "weight": True}], "weight must be a number"),
        ([{"type": "text", "text": "a", "weight": 2}], "unknown key 'weight'"),
        ([{"type": "text", "text": "a" * 20_001}], "20,001 characters"),
        ([{"role": "tool", "content": "a"}], "message 1: 'tool' is no role; there are system, user, assistant"),
        ([{"role": "user", "content": "a"}, "b"], "message 2: str is no role"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "the last message is the assistant's",
        ),
        ([{"role": "user"}], "message 1: 'content' is missing"),
        ([{"role": "user", "content": "a", "tool_calls": []}], "message 1: unknown key 'tool_calls'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 1, part 1: 'text' is missing"),
        ([{"role": "user", "content": "a"}] * 65, "65 messages"),
    ],
)
def test_what_is_no_part_is_named(parts: list[Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        parse_prompt(parts, folder=tmp_path)
    assert reason in str(caught.value)


def test_without_a_folder_no_file_is_read() -> None:
    with pytest.raises(InputError, match="only data URLs"):
        parse_prompt([{"type": "image", "image": "/etc/hostname"}], folder=None)
    parse_prompt([{"type": "image", "image": data_url(PICTURE)}], folder=None)


def test_a_medium_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data URL of image is not base64"):
        ContentPart("image", "data:image/png;base64,%%%").identity()
    with pytest.raises(InputError, match="is missing"):
        ContentPart("image", str(tmp_path / "gone.png")).identity()
