"""A dialogue keeps its turns and answers; typed lines become parts."""

from __future__ import annotations

import pytest

from x2i_platform.errors import InputError
from x2i_platform.generation.dialogue import Dialogue, typed_parts
from x2i_platform.generation.generator import Generator
from x2i_platform.models.prompts import Turn


def test_turns_and_answers_are_kept(generator: Generator) -> None:
    dialogue = Dialogue(generator)
    assert dialogue.settings.states == "both"
    first = dialogue.say("a red circle", seed=1)
    assert first.answer is not None
    second = dialogue.say("make it blue", seed=1)
    assert second.answer is not None
    assert dialogue.turns == (
        Turn("user", ("a red circle",)),
        Turn("assistant", (first.answer,)),
        Turn("user", ("make it blue",)),
        Turn("assistant", (second.answer,)),
    )
    alone = Dialogue(generator).say("make it blue", seed=1)
    assert alone.image.tobytes() != second.image.tobytes(), "what was said before matters"


def test_what_fails_leaves_the_dialogue_as_it_was(generator: Generator) -> None:
    dialogue = Dialogue(generator)
    dialogue.say("a", seed=1)
    before = dialogue.turns
    with pytest.raises(InputError):
        dialogue.say("word " * 300, seed=1)
    assert dialogue.turns == before
    dialogue.forget()
    assert dialogue.turns == ()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a red circle", [("text", "a red circle")]),
        ("@cat.png", [("image", "cat.png")]),
        ("make @cat.png blue", [("text", "make "), ("image", "cat.png"), ("text", " blue")]),
        ('@"my cat.JPG" @a.mp4 @b.wav', [("image", "my cat.JPG"), ("video", "a.mp4"), ("audio", "b.wav")]),
        ("me@cat.png and @alice and @notes.txt", [("text", "me@cat.png and @alice and @notes.txt")]),
    ],
)
def test_files_of_a_typed_line_are_media(line: str, expected: list[tuple[str, str]]) -> None:
    assert [(part["type"], part[part["type"]]) for part in typed_parts(line)] == expected
