"""The cases of an evaluation: scenes that are described in words or by a voice, shown, or come of an instruction.

Invariants: the n-th case of a suite is the same in every run; the suites of all languages, and the spoken one, have the
same scenes; a held-out case has a combination that is held out from training, a seen case has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image

from x2i_platform.media.clips import Audio
from x2i_platform.mini import recordings
from x2i_platform.mini.drawing import picture
from x2i_platform.mini.instructions import INSTRUCTIONS, Instruction, Shown, Speaker
from x2i_platform.mini.languages import LANGUAGES, Language, caption, describe
from x2i_platform.mini.perturbations import PERTURBATIONS, Perturbation, perturb
from x2i_platform.mini.scenes import CATEGORIES, Category, Composition, Scene, canonical, composition, scenes
from x2i_platform.mini.video import frames

Kind = Literal["text", "image", "video", "audio", "instruction"]
DEFAULT_SUITES: dict[str, Kind] = {**dict.fromkeys(LANGUAGES, "text"), "image": "image", "video": "video"}
"""The suites that are evaluated by default."""
ROBUSTNESS = "robustness"
"""English prompts, perturbed without a change of meaning. Student and teacher get the same text."""
AUDIO = "audio"
"""Spoken captions of the English suite, in voices that no training has. The miniature Qwen2.5-VL takes none."""
SUITES: dict[str, Kind] = {
    **DEFAULT_SUITES,
    ROBUSTNESS: "text",
    AUDIO: "audio",
    **dict.fromkeys(INSTRUCTIONS, "instruction"),
}
SCENES_SEED = 2026
"""Seed of the scenes. Training uses no stream with this seed and a category."""


@dataclass(frozen=True)
class Case:
    """A scene to draw, and the prompt for it."""

    key: str
    suite: str
    held_out: bool
    category: Category | Perturbation | Instruction
    composition: Composition | None
    """What is novel in a held-out scene."""
    scene: Scene
    english: str
    """The teacher's prompt."""
    text: str | None
    """The student's prompt, or None if it gets `images`, `sound` or `turns`."""
    images: tuple[Image.Image, ...]
    """One picture, or the frames of a video."""
    seed: int
    """Seed of the noise, which is the same for teacher and student."""
    group: str = ""
    """Key of the scene that several cases share, with the same noise; empty if each case has its own."""
    sound: Audio | None = None
    """A spoken caption."""
    turns: tuple[tuple[Speaker, tuple[Shown, ...]], ...] = ()
    """Who said and showed what, where the prompt is an instruction."""


def cases(suite: str, *, held_out: bool) -> Iterator[Case]:
    """Yield endless cases of a suite; the categories alternate. Spoken ones end with their recordings."""
    if suite in INSTRUCTIONS:
        return _instructed(suite, held_out=held_out)
    others = {ROBUSTNESS: _perturbed, AUDIO: _spoken}
    return others[suite](held_out=held_out) if suite in others else _described(suite, held_out=held_out)


def _spoken(*, held_out: bool) -> Iterator[Case]:
    """Yield the scenes of the English suite, told by a voice."""
    split = recordings.HELD_OUT if held_out else recordings.SEEN
    # Not strict: the scenes are endless.
    for case, entry in zip(cases("english", held_out=held_out), recordings.index(split), strict=False):
        assert case.english == entry.caption, "these recordings are of other scenes"
        key = _key(AUDIO, held_out=held_out, number=case.seed)
        yield replace(case, key=key, suite=AUDIO, text=None, sound=recordings.spoken(entry, split=split))


def _instructed(suite: str, *, held_out: bool) -> Iterator[Case]:
    """Yield instructions about what was shown or said before; the teacher is told the scene that comes of them."""
    for number, told in enumerate(INSTRUCTIONS[suite](held_out=held_out, seed=SCENES_SEED)):
        yield Case(
            key=_key(suite, held_out=held_out, number=number),
            suite=suite,
            held_out=held_out,
            category=told.kind,
            composition=composition(told.scene) if held_out else None,
            scene=told.scene,
            english=describe(canonical(told.scene)),
            text=None,
            images=(),
            seed=number,
            turns=told.turns,
        )


def _perturbed(*, held_out: bool) -> Iterator[Case]:
    """Yield each scene of the English suite in every perturbation. Only the words differ from the unchanged prompt."""
    number = 0
    for case in cases("english", held_out=held_out):
        for kind in PERTURBATIONS:
            text = perturb(case.scene, kind=kind, seed=case.seed)
            key = _key(ROBUSTNESS, held_out=held_out, number=number)
            yield replace(case, key=key, suite=ROBUSTNESS, category=kind, english=text, text=text, group=case.key)
            number += 1


def _described(suite: str, *, held_out: bool) -> Iterator[Case]:
    # A picture shows all sizes, so all are judged. A text may leave sizes open.
    sized = None if SUITES[suite] == "text" else True
    sources = {category: scenes(category, held_out=held_out, seed=SCENES_SEED, sized=sized) for category in CATEGORIES}
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
        english = describe(canonical(scene))
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
