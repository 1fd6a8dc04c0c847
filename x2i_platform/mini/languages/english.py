"""Describes scenes in English.

Invariants: the first phrasing of each function is the canonical one; "next to" and "beside" are never used, because
they would exclude one above the other.
"""

from __future__ import annotations

from x2i_platform.mini.scenes import CONVERSE, Relation, Shape, Size, Thing

PLURALS: dict[Shape, str] = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "heart": "hearts",
    "cross": "crosses",
}
NUMERALS = {2: "two", 3: "three", 4: "four"}
SYNONYMS: dict[Size, str] = {"small": "little", "medium": "medium-sized", "large": "big"}
"""A synonym for each size."""
PREPOSITIONS: dict[Relation, tuple[str, ...]] = {
    "left of": ("to the left of", "on the left of", "left of"),
    "right of": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
SIDES: dict[Relation, str] = {
    "left of": "on its left",
    "right of": "on its right",
    "above": "above it",
    "below": "below it",
}
"""The position of the thing after "with"."""
CORNERS: dict[Relation, str] = {
    "left of": "on the left",
    "right of": "on the right",
    "above": "at the top",
    "below": "at the bottom",
}


def one(thing: Thing) -> list[str]:
    """Describe a single thing."""
    a, synonym = _singular(thing), _singular(thing, synonyms=True)
    alone = " ".join(["one", *_adjectives(thing, synonyms=False), thing.shape])
    return [
        a,
        synonym,
        alone,
        f"a picture of {a}",
        f"a drawing of {synonym}",
        f"an image of {a}",
        f"there is {synonym}",
    ]


def several(thing: Thing, *, count: int) -> list[str]:
    """Describe two to four equal things."""
    plain, synonym = (_plural(thing, count=count, synonyms=synonyms) for synonyms in (False, True))
    return [
        *(plain, synonym, f"a picture of {plain}", f"a drawing of {synonym}", f"an image of {plain}"),
        *(f"there are {plain}", f"a group of {synonym}"),
    ]


def placed(first: Thing, *, relation: Relation, second: Thing) -> list[str]:
    """Describe two things and the position of the first relative to the second."""
    a, b = _singular(first), _singular(second)
    varied_a, varied_b = _singular(first, synonyms=True), _singular(second, synonyms=True)
    here, there = PREPOSITIONS[relation], PREPOSITIONS[CONVERSE[relation]]
    return [
        *(f"{a} {preposition} {b}" for preposition in here),
        f"{varied_a} {here[0]} {varied_b}",
        f"a picture of {a} {here[0]} {b}",
        f"there is {varied_a} {here[1]} {varied_b}",
        f"{a} with {b} {SIDES[CONVERSE[relation]]}",
        f"{a} {CORNERS[relation]} and {b} {CORNERS[CONVERSE[relation]]}",
        *(f"{b} {preposition} {a}" for preposition in there),
        f"{varied_b} with {varied_a} {SIDES[relation]}",
    ]


def together(first: Thing, *, second: Thing) -> list[str]:
    """Describe two things without their positions."""
    a, b = _singular(first), _singular(second)
    varied_a, varied_b = _singular(first, synonyms=True), _singular(second, synonyms=True)
    return [
        *(f"{a} and {b}", f"{b} and {a}", f"{varied_a} and {varied_b}", f"{a} with {b}", f"both {a} and {b}"),
        *(
            f"{varied_a} together with {varied_b}",
            f"a picture of {a} and {b}",
            f"a drawing of {varied_b} and {varied_a}",
        ),
        f"there is {a} and {b}",
    ]


def _singular(thing: Thing, *, synonyms: bool = False) -> str:
    words = [*_adjectives(thing, synonyms=synonyms), thing.shape]
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _plural(thing: Thing, *, count: int, synonyms: bool) -> str:
    return " ".join([NUMERALS[count], *_adjectives(thing, synonyms=synonyms), PLURALS[thing.shape]])


def _adjectives(thing: Thing, *, synonyms: bool) -> list[str]:
    size = SYNONYMS[thing.size] if thing.size and synonyms else thing.size
    return [size, thing.colour] if size else [thing.colour]
