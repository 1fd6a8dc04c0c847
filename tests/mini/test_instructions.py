"""Instructions: what is shown and said fits the scene that must come of it, and is the same in every run."""

from __future__ import annotations

from itertools import islice

import pytest
from PIL import Image

from x2i_platform.mini.instructions import INSTRUCTIONS, Instructed
from x2i_platform.mini.judge import judge
from x2i_platform.mini.languages import describe
from x2i_platform.mini.scenes import COLOURS, RELATIONS, SHAPES, Scene, Thing, canonical
from x2i_platform.mini.suites import cases

SINGLE = [Scene(Thing(shape, colour, "medium")) for shape in SHAPES for colour in COLOURS]


def some(suite: str, *, held_out: bool, num: int = 60) -> list[Instructed]:
    return list(islice(INSTRUCTIONS[suite](held_out=held_out, seed=7), num))


def seen_in(image: Image.Image) -> Scene:
    """The single thing that a picture shows, whatever its size."""
    [found] = [
        Scene(Thing(shape, colour))
        for shape in SHAPES
        for colour in COLOURS
        if judge(image, Scene(Thing(shape, colour))).right
    ]
    return found


@pytest.mark.parametrize("suite", INSTRUCTIONS)
@pytest.mark.parametrize("held_out", [False, True])
def test_the_outcome_alone_is_held_out(suite: str, held_out: bool) -> None:
    """What is shown first is of the training, so that only the change is new."""
    found = some(suite, held_out=held_out)
    assert all(each.scene.is_held_out == held_out for each in found)
    assert [each.scene for each in found] == [each.scene for each in some(suite, held_out=held_out)]
    assert len({each.scene for each in found}) >= 6, "six pairs of a colour and a shape are held out"


def test_an_edit_is_of_the_thing_that_is_shown() -> None:
    for each in some("editing", held_out=True, num=20):
        [(speaker, (image, words))] = each.turns
        assert speaker == "user"
        assert isinstance(image, Image.Image) and isinstance(words, str)
        before = seen_in(image).first
        if each.kind == "recolour":
            colour = words.removeprefix("make it ")
            assert (each.scene.first.shape, each.scene.first.colour) == (
                before.shape,
                colour,
            ) and colour != before.colour
        else:
            source = Thing(before.shape, before.colour, "medium")
            [outcome] = [
                Scene(added.first, relation=relation, second=source)
                for added in SINGLE
                for relation in RELATIONS
                if words == f"add {describe(added)} {relation} it"
            ]
            assert canonical(outcome) == each.scene


def test_a_fusion_has_the_shape_of_one_and_the_colour_of_the_other() -> None:
    for each in some("fusion", held_out=True, num=20):
        [(_, (first, second, words))] = each.turns
        assert isinstance(first, Image.Image) and isinstance(second, Image.Image)
        shape, colour = seen_in(first).first.shape, seen_in(second).first.colour
        assert each.scene == Scene(Thing(shape, colour))
        assert isinstance(words, str) and "first" in words and "second" in words


def test_a_dialogue_changes_what_was_described_or_describes_another() -> None:
    found = some("dialogue", held_out=False)
    assert [each.kind for each in found[:6]] == ["recolour", "add", "afresh", "add", "recolour", "afresh"]
    for each in found:
        (_, first), (_, answer), (_, [last]) = each.turns
        assert first == answer
        assert [speaker for speaker, _ in each.turns] == ["user", "assistant", "user"]
        if each.kind == "afresh":
            assert last == describe(each.scene)


def test_cases_of_instructions_tell_the_teacher_the_outcome() -> None:
    for suite in INSTRUCTIONS:
        for case in islice(cases(suite, held_out=True), 10):
            assert (case.english, case.text, case.images) == (describe(canonical(case.scene)), None, ())
            assert case.turns and case.composition
