"""Instructions about what was shown or said before: edits of a picture, two pictures as one, turns of a dialogue.

The miniature MLLM was not trained on any of them: what it makes of them is measured, not promised. Invariant: the n-th
instruction of a kind is the same in every run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from x2i_platform.mini.drawing import picture
from x2i_platform.mini.languages import describe
from x2i_platform.mini.scenes import COLOURS, RELATIONS, SHAPES, Scene, Thing, canonical, scenes

Instruction = Literal["recolour", "add", "fuse", "afresh"]
Speaker = Literal["user", "assistant"]
Shown = str | Image.Image


@dataclass(frozen=True)
class Instructed:
    """What is said and shown, and the scene that the image must then show."""

    kind: Instruction
    scene: Scene
    turns: tuple[tuple[Speaker, tuple[Shown, ...]], ...]


def edits(*, held_out: bool, seed: int) -> Iterator[Instructed]:
    """Yield pictures of one thing with an instruction: "make it blue", or "add a red circle above it"."""
    for number, (kind, before, scene, words) in enumerate(_changes(f"edits {held_out} {seed}", held_out=held_out)):
        yield Instructed(kind, scene, (("user", (picture(before, seed=number).draw(), words)),))


def fusions(*, held_out: bool, seed: int) -> Iterator[Instructed]:
    """Yield two pictures whose shape and colour are to be joined."""
    draw = random.Random(f"fusions {held_out} {seed}")
    pairs = _pairs(scenes("single", held_out=False, seed=seed))
    for number, (first, second) in enumerate(pairs):
        scene = Scene(Thing(first.first.shape, second.first.colour))
        if first.first.shape == second.first.shape or scene.is_held_out != held_out:
            continue
        words = draw.choice(("the shape of the first in the colour of the second", "the first in the second's colour"))
        shown = (picture(first, seed=2 * number).draw(), picture(second, seed=2 * number + 1).draw())
        yield Instructed("fuse", scene, (("user", (*shown, words)),))


def dialogues(*, held_out: bool, seed: int) -> Iterator[Instructed]:
    """Yield a scene that was described, and a turn that changes it or, one time in three, describes another."""
    changes = _changes(f"dialogues {held_out} {seed}", held_out=held_out)
    others = scenes("colour", held_out=held_out, seed=seed)
    for number, (kind, before, scene, words) in enumerate(changes):
        if number % 3 == 2:
            kind, scene = "afresh", next(others)
            words = describe(scene)
        first = describe(before)
        yield Instructed(kind, scene, (("user", (first,)), ("assistant", (first,)), ("user", (words,))))


INSTRUCTIONS: Mapping[str, Callable[..., Iterator[Instructed]]] = {
    "editing": edits,
    "fusion": fusions,
    "dialogue": dialogues,
}
"""The suites of instructions."""


def _changes(name: str, *, held_out: bool) -> Iterator[tuple[Instruction, Scene, Scene, str]]:
    """Yield changes of one thing in turn: its kind, the scene before and after, and the words for it."""
    draw = random.Random(name)
    while True:
        for kind in ("recolour", "add"):
            before, scene, words = _change(draw, kind=kind)
            while before.is_held_out or scene.is_held_out != held_out:
                before, scene, words = _change(draw, kind=kind)
            yield kind, before, canonical(scene), words


def _change(draw: random.Random, *, kind: Literal["recolour", "add"]) -> tuple[Scene, Scene, str]:
    shape, other = draw.sample(SHAPES, 2)
    colour, another = draw.sample(COLOURS, 2)
    thing = Thing(shape, colour, "medium")
    if kind == "recolour":
        return Scene(thing), Scene(replace(thing, colour=another)), f"make it {another}"
    relation, added = draw.choice(RELATIONS), Thing(other, another, "medium")
    words = f"add {describe(Scene(added))} {relation} it"
    return Scene(thing), Scene(added, relation=relation, second=thing), words


def _pairs(source: Iterator[Scene]) -> Iterator[tuple[Scene, Scene]]:
    """Yield two at a time."""
    yield from zip(source, source, strict=True)
