"""Describes scenes in German.

Invariants: nouns, articles and adjectives agree in gender, number and case; the colour "rosa" and the numerals are not
inflected.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from x2i_platform.mini.scenes import CONVERSE, Colour, Relation, Shape, Size, Thing

Case = Literal["nominative", "accusative", "dative", "genitive"]
Gender = Literal["masculine", "neuter"]


class Noun(NamedTuple):
    """A noun's forms. The accusative singular equals the nominative; plurals differ only in the dative."""

    gender: Gender
    nominative: str
    dative: str
    genitive: str
    plural: str
    dative_plural: str

    def singular(self, case: Case) -> str:
        """Return the singular form for a case."""
        return {"dative": self.dative, "genitive": self.genitive}.get(case, self.nominative)


NOUNS: dict[Shape, Noun] = {
    "circle": Noun("masculine", "Kreis", "Kreis", "Kreises", "Kreise", "Kreisen"),
    "square": Noun("neuter", "Quadrat", "Quadrat", "Quadrats", "Quadrate", "Quadraten"),
    "triangle": Noun("neuter", "Dreieck", "Dreieck", "Dreiecks", "Dreiecke", "Dreiecken"),
    "star": Noun("masculine", "Stern", "Stern", "Sterns", "Sterne", "Sternen"),
    "heart": Noun("neuter", "Herz", "Herzen", "Herzens", "Herzen", "Herzen"),
    "cross": Noun("neuter", "Kreuz", "Kreuz", "Kreuzes", "Kreuze", "Kreuzen"),
}
STEMS: dict[Colour | Size, str] = {
    "red": "rot",
    "orange": "orangefarben",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "purple": "violett",
    "pink": "rosa",
    "black": "schwarz",
    "small": "klein",
    "medium": "mittelgroß",
    "large": "groß",
}
INVARIABLE = {"rosa"}
ARTICLES: dict[Case, dict[Gender, str]] = {
    "nominative": {"masculine": "ein", "neuter": "ein"},
    "accusative": {"masculine": "einen", "neuter": "ein"},
    "dative": {"masculine": "einem", "neuter": "einem"},
    "genitive": {"masculine": "eines", "neuter": "eines"},
}
ENDINGS: dict[Case, dict[Gender, str]] = {
    "nominative": {"masculine": "er", "neuter": "es"},
    "accusative": {"masculine": "en", "neuter": "es"},
    "dative": {"masculine": "en", "neuter": "en"},
    "genitive": {"masculine": "en", "neuter": "en"},
}
"""Endings of adjectives after "ein"."""
NUMERALS = {2: "zwei", 3: "drei", 4: "vier"}
PREPOSITIONS: dict[Relation, tuple[str, str]] = {
    "left of": ("links von", "links neben"),
    "right of": ("rechts von", "rechts neben"),
    "above": ("über", "oberhalb von"),
    "below": ("unter", "unterhalb von"),
}
"""All take the dative."""
SIDES: dict[Relation, str] = {
    "left of": "links davon",
    "right of": "rechts davon",
    "above": "darüber",
    "below": "darunter",
}
CORNERS: dict[Relation, str] = {"left of": "links", "right of": "rechts", "above": "oben", "below": "unten"}


def one(thing: Thing) -> list[str]:
    """Describe a single thing."""
    a, dative = _singular(thing), _singular(thing, case="dative")
    return [
        *(a, f"ein Bild von {dative}", f"ein Bild mit {dative}", f"eine Zeichnung von {dative}"),
        *(f"das Bild zeigt {_singular(thing, case='accusative')}", f"zu sehen ist {a}"),
        f"die Zeichnung {_singular(thing, case='genitive')}",
    ]


def several(thing: Thing, *, count: int) -> list[str]:
    """Describe two to four equal things."""
    plain, dative = _plural(thing, count=count), _plural(thing, count=count, dative=True)
    return [
        *(plain, f"ein Bild von {dative}", f"ein Bild mit {dative}", f"eine Zeichnung von {dative}"),
        *(f"das Bild zeigt {plain}", f"zu sehen sind {plain}", f"eine Gruppe von {dative}"),
    ]


def placed(first: Thing, *, relation: Relation, second: Thing) -> list[str]:
    """Describe two things and the position of the first relative to the second."""
    a, b = _singular(first), _singular(second)
    dative_a, dative_b = _singular(first, case="dative"), _singular(second, case="dative")
    here, there = PREPOSITIONS[relation], PREPOSITIONS[CONVERSE[relation]]
    return [
        *(f"{a} {preposition} {dative_b}" for preposition in here),
        f"{here[0]} {dative_b} ist {a}",
        f"ein Bild von {dative_a} {here[0]} {dative_b}",
        f"das Bild zeigt {_singular(first, case='accusative')} {here[1]} {dative_b}",
        f"{a} mit {dative_b} {SIDES[CONVERSE[relation]]}",
        f"{CORNERS[relation]} {a} und {CORNERS[CONVERSE[relation]]} {b}",
        *(f"{b} {preposition} {dative_a}" for preposition in there),
        f"{b} mit {dative_a} {SIDES[relation]}",
    ]


def together(first: Thing, *, second: Thing) -> list[str]:
    """Describe two things without their positions."""
    a, b = _singular(first), _singular(second)
    dative_a, dative_b = _singular(first, case="dative"), _singular(second, case="dative")
    return [
        *(f"{a} und {b}", f"{b} und {a}", f"{a} mit {dative_b}", f"{b} zusammen mit {dative_a}"),
        *(f"sowohl {a} als auch {b}", f"zu sehen sind {a} und {b}"),
        *(f"ein Bild von {dative_a} und {dative_b}", f"eine Zeichnung von {dative_b} und {dative_a}"),
    ]


def _singular(thing: Thing, *, case: Case = "nominative") -> str:
    noun = NOUNS[thing.shape]
    adjectives = _adjectives(thing, ending=ENDINGS[case][noun.gender])
    return " ".join([ARTICLES[case][noun.gender], *adjectives, noun.singular(case)])


def _plural(thing: Thing, *, count: int, dative: bool = False) -> str:
    noun = NOUNS[thing.shape]
    adjectives = _adjectives(thing, ending="en" if dative else "e")
    return " ".join([NUMERALS[count], *adjectives, noun.dative_plural if dative else noun.plural])


def _adjectives(thing: Thing, *, ending: str) -> list[str]:
    stems = [STEMS[word] for word in (thing.size, thing.colour) if word]
    return [stem if stem in INVARIABLE else stem + ending for stem in stems]
