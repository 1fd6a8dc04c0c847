"""What a model is asked to draw when it is evaluated: the same scenes told in words, shown as a picture, as a video.

Invariants: the n-th case of a suite is the same in every run; all languages tell the same scenes; held-out cases hold
a combination that no training has shown, seen cases hold none. A suite of sounds joins as one more entry of `SUITES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from x2i_platform.mini.drawing import picture
from x2i_platform.mini.languages import LANGUAGES, Language, caption, describe
from x2i_platform.mini.scenes import CATEGORIES, Category, Scene, plainest, scenes
from x2i_platform.mini.video import frames

Kind = Literal["text", "image", "video"]
SUITES: dict[str, Kind] = {**dict.fromkeys(LANGUAGES, "text"), "image": "image", "video": "video"}
SCENES_SEED = 2026
"""With the category, which training never draws a stream of scenes by together with this seed."""


@dataclass(frozen=True)
class Case:
    """One thing to draw, and what must be seen."""

    key: str
    suite: str
    held_out: bool
    category: Category
    scene: Scene
    english: str
    """What the teacher is told."""
    text: str | None
    """What the student is told, or None where it is shown `images`."""
    images: tuple[Image.Image, ...]
    """One picture, or the frames of a video."""
    seed: int
    """Of the noise; teacher and student get the same."""


def cases(suite: str, *, held_out: bool) -> Iterator[Case]:
    """Cases without end, the categories in turn."""
    described = SUITES[suite] != "text"
    # A picture shows every size, so it is judged in full; words may leave sizes open.
    sources = {
        category: scenes(category, held_out=held_out, seed=SCENES_SEED, sized=True if described else None)
        for category in CATEGORIES
    }
    number = 0
    while True:
        category = CATEGORIES[number % len(CATEGORIES)]
        yield _case(suite, next(sources[category]), category=category, held_out=held_out, number=number)
        number += 1


def _case(suite: str, scene: Scene, *, category: Category, held_out: bool, number: int) -> Case:
    kind, english = SUITES[suite], caption(scene, seed=number)
    text: str | None = None
    images: tuple[Image.Image, ...] = ()
    if kind == "text":
        language: Language = next(one for one in LANGUAGES if one == suite)
        text = caption(scene, language=language, seed=number)
    else:
        shown = picture(scene, seed=number)
        scene = shown.scene
        english = describe(plainest(scene))
        images = (shown.draw(),) if kind == "image" else tuple(frames(shown, seed=number))
    return Case(
        key=f"{suite}-{'held_out' if held_out else 'seen'}-{number:05d}",
        suite=suite,
        held_out=held_out,
        category=category,
        scene=scene,
        english=english,
        text=text,
        images=images,
        seed=number,
    )
