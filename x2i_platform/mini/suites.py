"""What a model is asked to draw when it is evaluated: the same scenes told in words, shown as a picture, as a video.

Invariants: the n-th case of a suite is the same in every run; all languages tell the same scenes; held-out cases hold
a combination that no training has shown, seen cases hold none. A suite of sounds joins as one more entry of
`DEFAULT_SUITES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from x2i_platform.mini.drawing import picture
from x2i_platform.mini.languages import LANGUAGES, Language, caption, describe
from x2i_platform.mini.perturbations import PERTURBATIONS, Perturbation, perturb
from x2i_platform.mini.scenes import CATEGORIES, Category, Composition, Scene, composition, plainest, scenes
from x2i_platform.mini.video import frames

Kind = Literal["text", "image", "video"]
DEFAULT_SUITES: dict[str, Kind] = {**dict.fromkeys(LANGUAGES, "text"), "image": "image", "video": "video"}
"""What is drawn where no suite is named."""
ROBUSTNESS = "robustness"
"""English prompts perturbed in ways that keep the meaning; student and teacher are told the same."""
SUITES: dict[str, Kind] = {**DEFAULT_SUITES, ROBUSTNESS: "text"}
SCENES_SEED = 2026
"""With the category, which training never draws a stream of scenes by together with this seed."""


@dataclass(frozen=True)
class Case:
    """One thing to draw, and what must be seen."""

    key: str
    suite: str
    held_out: bool
    category: Category | Perturbation
    composition: Composition | None
    """What is novel in a held-out scene."""
    scene: Scene
    english: str
    """What the teacher is told."""
    text: str | None
    """What the student is told, or None where it is shown `images`."""
    images: tuple[Image.Image, ...]
    """One picture, or the frames of a video."""
    seed: int
    """Of the noise; teacher and student get the same."""
    group: str = ""
    """The scene that several cases of a suite share, from the same noise; empty where each has its own."""


def cases(suite: str, *, held_out: bool) -> Iterator[Case]:
    """Cases without end, the categories in turn."""
    return _perturbed(held_out=held_out) if suite == ROBUSTNESS else _told(suite, held_out=held_out)


def _perturbed(*, held_out: bool) -> Iterator[Case]:
    """Each scene of the English suite in every perturbation, so that only the words differ from the control's."""
    number = 0
    for case in cases("english", held_out=held_out):
        for kind in PERTURBATIONS:
            text = perturb(case.scene, kind=kind, seed=case.seed)
            key = _key(ROBUSTNESS, held_out=held_out, number=number)
            yield replace(case, key=key, suite=ROBUSTNESS, category=kind, english=text, text=text, group=case.key)
            number += 1


def _told(suite: str, *, held_out: bool) -> Iterator[Case]:
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
        key=_key(suite, held_out=held_out, number=number),
        suite=suite,
        held_out=held_out,
        category=category,
        composition=composition(scene) if held_out else None,
        scene=scene,
        english=english,
        text=text,
        images=images,
        seed=number,
    )


def _key(suite: str, *, held_out: bool, number: int) -> str:
    return f"{suite}-{'held_out' if held_out else 'seen'}-{number:05d}"
