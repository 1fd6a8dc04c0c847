"""Describes scenes in French.

Invariants: articles and adjectives agree in gender and number; "orange" is invariable, because it comes from a noun;
"de" and "que" are elided before "un" and "une".
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from x2i_platform.mini.scenes import CONVERSE, Colour, Relation, Shape, Size, Thing

Gender = Literal["masculine", "feminine"]


class Noun(NamedTuple):
    """A noun with its plural."""

    gender: Gender
    singular: str
    plural: str


class Adjective(NamedTuple):
    """The four forms of an adjective."""

    masculine: str
    feminine: str
    masculine_plural: str
    feminine_plural: str

    def agreeing(self, gender: Gender, *, plural: bool) -> str:
        """Return the form that agrees with a noun."""
        singular, several = (
            (self.masculine, self.masculine_plural) if gender == "masculine" else (self.feminine, self.feminine_plural)
        )
        return several if plural else singular


NOUNS: dict[Shape, Noun] = {
    "circle": Noun("masculine", "cercle", "cercles"),
    "square": Noun("masculine", "carré", "carrés"),
    "triangle": Noun("masculine", "triangle", "triangles"),
    "star": Noun("feminine", "étoile", "étoiles"),
    "heart": Noun("masculine", "cœur", "cœurs"),
    "cross": Noun("feminine", "croix", "croix"),
}
COLOURS: dict[Colour, Adjective] = {
    "red": Adjective("rouge", "rouge", "rouges", "rouges"),
    "orange": Adjective("orange", "orange", "orange", "orange"),
    "yellow": Adjective("jaune", "jaune", "jaunes", "jaunes"),
    "green": Adjective("vert", "verte", "verts", "vertes"),
    "blue": Adjective("bleu", "bleue", "bleus", "bleues"),
    "purple": Adjective("violet", "violette", "violets", "violettes"),
    "pink": Adjective("rose", "rose", "roses", "roses"),
    "black": Adjective("noir", "noire", "noirs", "noires"),
}
SIZES_BEFORE: dict[Size | None, Adjective] = {
    "small": Adjective("petit", "petite", "petits", "petites"),
    "large": Adjective("grand", "grande", "grands", "grandes"),
}
SIZES_AFTER: dict[Size | None, str] = {"medium": "de taille moyenne"}
ARTICLES: dict[Gender, str] = {"masculine": "un", "feminine": "une"}
NUMERALS = {2: "deux", 3: "trois", 4: "quatre"}
PREPOSITIONS: dict[Relation, str] = {
    "left of": "à gauche de",
    "right of": "à droite de",
    "above": "au-dessus de",
    "below": "en dessous de",
}
SIDES: dict[Relation, str] = {
    "left of": "à sa gauche",
    "right of": "à sa droite",
    "above": "au-dessus",
    "below": "en dessous",
}
CORNERS: dict[Relation, str] = {"left of": "à gauche", "right of": "à droite", "above": "en haut", "below": "en bas"}


def one(thing: Thing) -> list[str]:
    """Describe a single thing."""
    return _alone(_singular(thing))


def several(thing: Thing, *, count: int) -> list[str]:
    """Describe two to four equal things."""
    plural = _noun_phrase(thing, determiner=NUMERALS[count], plural=True)
    return [*_alone(plural), f"un groupe de {plural}"]


def placed(first: Thing, *, relation: Relation, second: Thing) -> list[str]:
    """Describe two things and the position of the first relative to the second."""
    a, b = _singular(first), _singular(second)
    here, there = PREPOSITIONS[relation], PREPOSITIONS[CONVERSE[relation]]
    return _elided(
        f"{a} {here} {b}",
        f"une image de {a} {here} {b}",
        f"il y a {a} {here} {b}",
        f"on voit {a} {here} {b}",
        f"{here} {b}, il y a {a}",
        f"{a} avec {b} {SIDES[CONVERSE[relation]]}",
        f"{a} {CORNERS[relation]} et {b} {CORNERS[CONVERSE[relation]]}",
        f"{b} {there} {a}",
        f"un dessin de {b} {there} {a}",
        f"{b} avec {a} {SIDES[relation]}",
    )


def together(first: Thing, *, second: Thing) -> list[str]:
    """Describe two things without their positions."""
    a, b = _singular(first), _singular(second)
    return _elided(
        *(f"{a} et {b}", f"{b} et {a}", f"{a} avec {b}", f"{b} ainsi que {a}", f"à la fois {a} et {b}"),
        *(f"une image de {a} et de {b}", f"un dessin de {b} et de {a}", f"il y a {a} et {b}"),
    )


def _alone(phrase: str) -> list[str]:
    """Return a noun phrase by itself and in sentences that add no meaning."""
    return _elided(
        *(phrase, f"une image de {phrase}", f"un dessin de {phrase}", f"il y a {phrase}", f"on voit {phrase}"),
        f"l'image montre {phrase}",
    )


def _elided(*captions: str) -> list[str]:
    return [caption.replace(" de un", " d'un").replace(" que un", " qu'un") for caption in captions]


def _singular(thing: Thing) -> str:
    return _noun_phrase(thing, determiner=ARTICLES[NOUNS[thing.shape].gender], plural=False)


def _noun_phrase(thing: Thing, *, determiner: str, plural: bool) -> str:
    noun = NOUNS[thing.shape]
    before, after = SIZES_BEFORE.get(thing.size), SIZES_AFTER.get(thing.size)
    words = [
        determiner,
        before and before.agreeing(noun.gender, plural=plural),
        noun.plural if plural else noun.singular,
        COLOURS[thing.colour].agreeing(noun.gender, plural=plural),
        after,
    ]
    return " ".join(word for word in words if word)
