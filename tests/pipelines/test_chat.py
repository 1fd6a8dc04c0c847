"""A dialogue in the terminal, with the miniature models: lines in, images and a transcript out."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import cli
from pipelines.chat import Chat
from tests.media import hostile
from x2i_platform.errors import StoreError
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.models.prompts import Prompt, Turn


def chat(
    model: Path, *lines: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[list[dict[str, Any]], str]:
    """Type the lines; returns what was answered, and stderr."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    monkeypatch.setattr(sys, "argv", ["x2i-platform", "chat", str(model), "--out", str(out), "--seed", "4", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    captured = capsys.readouterr()
    return [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_each_line_makes_an_image_in_the_context_of_those_before(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my cat.png").write_bytes(hostile.picture())
    monkeypatch.chdir(tmp_path)
    lines = ("a red circle", "", 'like @"my cat.png" by @alice', "/new", "a red circle", "/quit", "never read")
    answered, _ = chat(model_folder, *lines, out=tmp_path / "out", monkeypatch=monkeypatch, capsys=capsys)
    assert [each["file"] for each in answered] == [f"turn-000{turn}.png" for turn in (1, 2, 3)]
    assert [each["prompt"] for each in answered] == ["a red circle", "like   by @alice", "a red circle"]

    generator = Generator.load(model_folder)
    settings = generator.recipe.generate.model_copy(update={"states": "both"})
    first = Turn("user", ("a red circle",))
    picture = Image.open(tmp_path / "my cat.png").convert("RGB")
    second = Turn("user", ("like ", picture, " by @alice"))
    prompts = [Prompt((first,)), Prompt((first, Turn("assistant", (answered[0]["answer"],)), second)), Prompt((first,))]
    for prompt, each in zip(prompts, answered, strict=True):
        [made] = generator.generate([ImageRequest(prompt, 4, settings)])
        assert each["answer"] == made.answer
        with Image.open(tmp_path / "out" / each["file"]) as image:
            assert image.convert("RGB").tobytes() == made.image.tobytes()
            assert image.info["answer"] == made.answer
    transcript = [json.loads(line) for line in (tmp_path / "out" / "dialogue.jsonl").read_text().splitlines()]
    assert [each["answer"] for each in transcript] == [each["answer"] for each in answered]
    assert [kind for kind, _ in transcript[1]["media"]] == ["image"]


def test_a_line_that_cannot_be_taken_is_named_and_the_dialogue_goes_on(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = ("@gone.png in blue", "word " * 300, "a photo")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "turn-7 copy.png").touch()  # somebody's own
    for turn in (1, 2):  # a second dialogue leaves the first one's images
        answered, said = chat(model_folder, *lines, out=tmp_path / "out", monkeypatch=monkeypatch, capsys=capsys)
        assert "gone.png' is missing" in said
        assert "at most 128 fit" in said
        assert [each["turn"] for each in answered] == [turn]
    assert len(list((tmp_path / "out").glob("turn-000*.png"))) == 2


def test_a_folder_that_cannot_be_made_is_a_users_mistake(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="can't be made"):
        Chat(model_folder, out=tmp_path / "file")
