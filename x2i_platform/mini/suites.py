"""What a model is asked to draw in an evaluation: the same scenes in words, as pictures and as videos.

Invariants: case n of a suite is the same in every run; all languages describe the same scenes; held-out cases hold a
combination that training never shows, seen cases hold none. A suite of sounds would be one more entry of
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
"""Suites that are drawn if none is named."""
ROBUSTNESS = "robustness"
"""Perturbed English prompts with the same meaning; student and teacher get the same words."""
SUITES: dict[str, Kind] = {**DEFAULT_SUITES, ROBUSTNESS: "text"}
SCENES_SEED = 2026
"""Seed of the scenes. Training never combines it with a category."""


@dataclass(frozen=True)
class Case:
    """One prompt, and the scene that its image must show."""

    key: str
    suite: str
    held_out: bool
    category: Category | Perturbation
    composition: Composition | None
    """What is novel in a held-out scene."""
    scene: Scene
    english: str
    """The teacher's prompt."""
    text: str | None
    """The student's prompt; None if it is shown `images`."""
    images: tuple[Image.Image, ...]
    """One picture, or the frames of a video."""
    seed: int
    """Seed of the noise, the same for teacher and student."""
    group: str = ""
    """Name of the scene that several cases of a suite share, with the same noise; empty if each case has its own."""


def cases(suite: str, *, held_out: bool) -> Iterator[Case]:
    """An endless stream of cases; categories take turns."""
    return _perturbed(held_out=held_out) if suite == ROBUSTNESS else _told(suite, held_out=held_out)


def _perturbed(*, held_out: bool) -> Iterator[Case]:
    """Each scene of the English suite in every perturbation, with the same noise, so that only the words differ."""
    number = 0
    for case in cases("english", held_out=held_out):
        for kind in PERTURBATIONS:
            text = perturb(case.scene, kind=kind, seed=case.seed)
            key = _key(ROBUSTNESS, held_out=held_out, number=number)
            yield replace(case, key=key, suite=ROBUSTNESS, category=kind, english=text, text=text, group=case.key)
            number += 1


def _told(suite: str, *, held_out: bool) -> Iterator[Case]:
    described = SUITES[suite] != "text"
    # A picture shows every size, so all sizes are judged; words may leave sizes open.
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
