"""Describes scenes in six languages, each with several phrasings that mean exactly the scene.

Invariants: a caption is a pure function of its scene, language and seed; two scenes share a caption in a language only
if they mean the same (one is the other's converse). Captions are NFC text without a final stop. Captions in Latin
letters have at most 18 words, Chinese ones at most 30 characters, Japanese ones at most 40.
"""

from __future__ import annotations

import random
from typing import Literal, Protocol, get_args

from x2i_platform.mini.languages import chinese, english, french, german, japanese, vietnamese
from x2i_platform.mini.scenes import Relation, Scene, Thing

Language = Literal["english", "german", "french", "chinese", "japanese", "vietnamese"]
LANGUAGES: tuple[Language, ...] = get_args(Language)


class Grammar(Protocol):
    """The functions of a language's module. Each returns phrasings, the canonical one first."""

    def one(self, thing: Thing) -> list[str]:
        """Describe a single thing."""

    def several(self, thing: Thing, *, count: int) -> list[str]:
        """Describe two to four equal things."""

    def placed(self, first: Thing, *, relation: Relation, second: Thing) -> list[str]:
        """Describe two things and the position of the first relative to the second."""

    def together(self, first: Thing, *, second: Thing) -> list[str]:
        """Describe two things without their positions."""


GRAMMARS: dict[Language, Grammar] = {
    "english": english,
    "german": german,
    "french": french,
    "chinese": chinese,
    "japanese": japanese,
    "vietnamese": vietnamese,
}


def phrasings(scene: Scene, *, language: Language) -> list[str]:
    """Return all distinct captions of a scene in a fixed order, the canonical one first."""
    grammar = GRAMMARS[language]
    if scene.second is None:
        said = grammar.one(scene.first) if scene.count == 1 else grammar.several(scene.first, count=scene.count)
    elif scene.relation is None:
        said = grammar.together(scene.first, second=scene.second)
    else:
        said = grammar.placed(scene.first, relation=scene.relation, second=scene.second)
    return list(dict.fromkeys(said))


def caption(scene: Scene, *, language: Language = "english", seed: int) -> str:
    """Draw one phrasing of a scene, all of the language's with equal probability."""
    return random.Random(f"caption {scene} {language} {seed}").choice(phrasings(scene, language=language))


def describe(scene: Scene) -> str:
    """Return the canonical English sentence of a scene, such as "a large red circle above a small blue square"."""
    return phrasings(scene, language="english")[0]
