"""Parts of a prompt, as transformers and OpenAI spell them: read from files or data URLs, never from a network."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.media import hostile
from x2i_platform.config import MediaConfig
from x2i_platform.errors import InputError
from x2i_platform.generation.content import ContentPart, load_prompt, parse_content, words_of
from x2i_platform.media.clips import Video

PICTURE = hostile.picture()


def data_url(content: bytes, medium: str = "image/png") -> str:
    return f"data:{medium};base64,{base64.b64encode(content).decode()}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cat.png").write_bytes(PICTURE)
    (tmp_path / "a.mp4").write_bytes(hostile.video())
    return tmp_path


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "cat.png"},
        {"type": "image_url", "image_url": {"url": "cat.png"}},
        {"type": "image_url", "image_url": "cat.png"},
        {"type": "image", "image": data_url(PICTURE)},
        {"type": "image_url", "image_url": {"url": data_url(PICTURE)}},
    ],
)
def test_every_spelling_is_the_same_picture(part: dict[str, Any], folder: Path) -> None:
    parts = parse_content([{"type": "text", "text": "in blue"}, part], folder=folder)
    assert words_of(parts) == "in blue"
    [plain] = parse_content([{"type": "image", "image": "cat.png"}], folder=folder)
    assert parts[1].identity() == plain.identity()
    text, image = load_prompt(parts, media=MediaConfig()).parts
    assert text == "in blue"
    assert image.size == (64, 48)  # type: ignore[union-attr]


def test_media_are_prepared_as_the_recipe_says(folder: Path) -> None:
    parts = parse_content([{"type": "image", "image": "cat.png"}, {"type": "video", "video": "a.mp4"}], folder=folder)
    assert words_of(parts) == "[image] [video]"
    image, video = load_prompt(parts, media=MediaConfig(image_side=32, video_fps=2.0, video_frames=4)).media
    assert isinstance(video, Video)
    assert image.size == video.frames[0].size == (32, 32)  # type: ignore[union-attr]
    assert len(video.frames) == 4
    assert video.fps == pytest.approx(4 / 3)
    levels = [float(np.asarray(frame).mean()) for frame in video.frames]
    assert levels == sorted(levels)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "0 parts"),
        ([{"type": "text", "text": "a"}] * 65, "65 parts"),
        ([{"type": "text", "text": "  "}], "blank"),
        (["a cat"], "part 1: str is no type of part"),
        ([{"type": "sound"}], "part 1: 'sound' is no type of part; there are text, image"),
        ([{"type": "text", "text": "a"}, {"type": "image"}], "part 2: 'image' is missing"),
        ([{"type": "image", "image": "a.png", "detail": "high"}], "unknown key 'detail'"),
        ([{"type": "image", "image": "https://example.com/a.png"}], "nothing is fetched"),
        ([{"type": "image", "image": "file:///etc/hostname"}], "nothing is fetched"),
        ([{"type": "image", "image": data_url(PICTURE, "video/mp4")}], "data:image/"),
        ([{"type": "text", "text": "a" * 20_001}], "20,001 characters"),
    ],
)
def test_what_is_no_part_is_named(parts: list[Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        parse_content(parts, folder=tmp_path)
    assert reason in str(caught.value)


def test_without_a_folder_no_file_is_read() -> None:
    with pytest.raises(InputError, match="only data URLs"):
        parse_content([{"type": "image", "image": "/etc/hostname"}], folder=None)
    parse_content([{"type": "image", "image": data_url(PICTURE)}], folder=None)


def test_a_damaged_medium_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(PICTURE[:200])
    [part] = parse_content([{"type": "image", "image": "cut.png"}], folder=tmp_path)
    with pytest.raises(InputError, match=r"cut\.png.*truncated"):
        load_prompt([part], media=MediaConfig())
    with pytest.raises(InputError, match="data URL of image is not base64"):
        ContentPart("image", "data:image/png;base64,%%%").identity()
    with pytest.raises(InputError, match="is missing"):
        ContentPart("image", str(tmp_path / "gone.png")).identity()
