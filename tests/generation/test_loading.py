"""Messages become prompts: their media are decoded and prepared as the recipe says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media import hostile
from x2i_platform.config import MediaConfig
from x2i_platform.errors import InputError
from x2i_platform.generation.content import parse_prompt
from x2i_platform.generation.loading import load_prompt
from x2i_platform.media.clips import Audio, Video
from x2i_platform.models.prompts import Weighted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cat.png").write_bytes(hostile.picture())
    (tmp_path / "a.mp4").write_bytes(hostile.video())
    (tmp_path / "a.wav").write_bytes(hostile.sound())
    (tmp_path / "cut.png").write_bytes(hostile.picture()[:200])
    return tmp_path


def test_media_are_prepared_as_the_recipe_says(folder: Path) -> None:
    kinds = (("image", "cat.png"), ("video", "a.mp4"), ("audio", "a.wav"))
    messages = parse_prompt([{"type": kind, kind: name} for kind, name in kinds], folder=folder)
    media = MediaConfig(image_side=32, video_fps=2.0, video_frames=4, audio_sampling_rate=8000)
    image, video, sound = load_prompt(messages, media=media).media
    assert isinstance(image, Image.Image)
    assert isinstance(video, Video)
    assert isinstance(sound, Audio)
    assert image.size == video.frames[0].size == (32, 32)
    assert len(video.frames) == 4
    assert video.fps == pytest.approx(4 / 3)
    levels = [float(np.asarray(frame).mean()) for frame in video.frames]
    assert levels == sorted(levels)
    assert sound.sampling_rate == 8000
    [whole] = load_prompt(messages[:1], media=MediaConfig()).media[2:]
    assert isinstance(whole, Audio)
    assert whole.sampling_rate == 16_000
    assert whole.seconds == pytest.approx(sound.seconds, abs=0.01)


def test_turns_and_weights_are_kept(folder: Path) -> None:
    said = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {
            "role": "user",
            "content": [{"type": "image", "image": "cat.png", "weight": 0.5}, {"type": "text", "text": "x"}],
        },
    ]
    prompt = load_prompt(parse_prompt(said, folder=folder), media=MediaConfig())
    assert [(turn.role, len(turn.parts)) for turn in prompt.turns] == [("user", 1), ("assistant", 1), ("user", 2)]
    weighted = prompt.turns[2].parts[0]
    assert isinstance(weighted, Weighted)
    assert (weighted.weight, prompt.weights) == (0.5, (0.5,))
    assert prompt.text == "x"


def test_a_damaged_medium_is_an_error_that_names_it(folder: Path) -> None:
    messages = parse_prompt([{"type": "image", "image": "cut.png"}], folder=folder)
    with pytest.raises(InputError, match=r"cut\.png.*truncated"):
        load_prompt(messages, media=MediaConfig())
