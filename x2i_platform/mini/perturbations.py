"""Perturbs English prompts: each kind of perturbation changes the words and keeps the meaning.

Invariants: a perturbed prompt is a pure function of scene, kind and seed; except for `unchanged` it differs from the
canonical sentence; no word for a shape, colour or size becomes another one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Literal, get_args

from x2i_platform.mini.languages import describe
from x2i_platform.mini.languages.english import NUMERALS, PLURALS, PREPOSITIONS
from x2i_platform.mini.scenes import COLOURS, SHAPES, SIZES, Scene

Perturbation = Literal["unchanged", "synonym", "order", "case", "punctuation", "misspelling", "adjective"]
PERTURBATIONS: tuple[Perturbation, ...] = get_args(Perturbation)

SYNONYMS: dict[str, str] = {
    "small": "tiny",
    "medium": "mid-sized",
    "large": "huge",
    "to the left of": "on the left side of",
    "to the right of": "on the right side of",
    "above": "higher than",
    "below": "beneath",
    "and": "as well as",
    **{numeral: str(count) for count, numeral in NUMERALS.items()},
    **{colour: f"{colour}-coloured" for colour in COLOURS},
}
"""Synonyms of words in canonical sentences, which no training caption has."""
ADJECTIVES = ("nice", "lovely", "neat", "beautiful", "charming")
"""Adjectives without a visible effect. All begin with a consonant; none can be an adverb."""
PUNCTUATION = ("{}.", "{}!", "{} ...", '"{}"')
NAMES = frozenset({*SHAPES, *PLURALS.values(), *COLOURS, *SIZES})
"""Words that may be misspelt. Swapping letters makes no other word of them."""


def perturb(scene: Scene, *, kind: Perturbation, seed: int) -> str:
    """Return the canonical sentence of a scene with one kind of change; `unchanged` returns the sentence itself."""
    return _KINDS[kind](scene, random.Random(f"perturbation {kind} {scene} {seed}"))


def swaps(word: str) -> list[str]:
    """Return all misspellings of a word with two neighbouring inner letters swapped."""
    return [
        word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        for place in range(1, len(word) - 2)
        if word[place] != word[place + 1]
    ]


def _unchanged(scene: Scene, _draw: random.Random) -> str:
    return describe(scene)


def _synonym(scene: Scene, draw: random.Random) -> str:
    """Replace the first occurrence of one word. Two words with "-coloured" would be too long for T5."""
    text = describe(scene)
    word = draw.choice([word for word in SYNONYMS if re.search(rf"\b{word}\b", text)])
    return re.sub(rf"\b{word}\b", SYNONYMS[word], text, count=1)


def _order(scene: Scene, _draw: random.Random) -> str:
    """Put the second thing first, or a thing's attributes after its name."""
    if scene.second is None:
        number, *adjectives, noun = describe(scene).split()
        beginning = f"a {noun} that is" if scene.count == 1 else f"{number} {noun} that are"
        return f"{beginning} {' and '.join(adjectives)}"
    if scene.relation is None:
        return describe(scene.converse())
    first, second = (describe(Scene(thing)) for thing in (scene.first, scene.second))
    return f"{PREPOSITIONS[scene.relation][0]} {second} is {first}"


def _case(scene: Scene, draw: random.Random) -> str:
    words = describe(scene).split()
    place = draw.randrange(len(words))
    words[place] = draw.choice((str.upper, str.capitalize))(words[place])
    return " ".join(words)


def _punctuation(scene: Scene, draw: random.Random) -> str:
    return draw.choice(PUNCTUATION).format(describe(scene))


def _misspelling(scene: Scene, draw: random.Random) -> str:
    words = describe(scene).split()
    place = draw.choice([place for place, word in enumerate(words) if word in NAMES and swaps(word)])
    words[place] = draw.choice(swaps(words[place]))
    return " ".join(words)


def _adjective(scene: Scene, draw: random.Random) -> str:
    article, rest = describe(scene).split(" ", 1)
    return f"{'a' if article == 'an' else article} {draw.choice(ADJECTIVES)} {rest}"


_KINDS: dict[Perturbation, Callable[[Scene, random.Random], str]] = {
    "unchanged": _unchanged,
    "synonym": _synonym,
    "order": _order,
    "case": _case,
    "punctuation": _punctuation,
    "misspelling": _misspelling,
    "adjective": _adjective,
}
