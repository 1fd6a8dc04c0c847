"""Inflection: every form that English, German and French nouns, articles and adjectives take in captions."""

from __future__ import annotations

import pytest

from x2i_platform.mini.languages import Language, describe, phrasings
from x2i_platform.mini.scenes import Colour, Scene, Shape, Size, Thing


def says(scene: Scene, language: Language, *sentences: str) -> None:
    said = phrasings(scene, language=language)
    assert set(sentences) <= set(said), (sentences, said)


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (Thing("heart", "orange"), "an orange heart"),
        (Thing("heart", "orange", "large"), "a large orange heart"),
        (Thing("circle", "red"), "a red circle"),
        (Thing("square", "yellow"), "a yellow square"),
        (Thing("triangle", "green", "medium"), "a medium green triangle"),
        (Thing("star", "pink", "small"), "a small pink star"),
        (Thing("cross", "black"), "a black cross"),
    ],
)
def test_english_articles(thing: Thing, expected: str) -> None:
    assert describe(Scene(thing)) == expected


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ("circle", 2, "two red circles"),
        ("square", 3, "three red squares"),
        ("triangle", 4, "four red triangles"),
        ("star", 2, "two red stars"),
        ("heart", 3, "three red hearts"),
        ("cross", 4, "four red crosses"),
    ],
)
def test_english_plurals(shape: Shape, count: int, expected: str) -> None:
    assert describe(Scene(Thing(shape, "red"), count=count)) == expected


@pytest.mark.parametrize(
    ("shape", "nominative", "accusative", "dative", "genitive", "plural", "dative_plural"),
    [
        ("circle", "ein Kreis", "einen Kreis", "einem Kreis", "eines Kreises", "Kreise", "Kreisen"),
        ("square", "ein Quadrat", "ein Quadrat", "einem Quadrat", "eines Quadrats", "Quadrate", "Quadraten"),
        ("triangle", "ein Dreieck", "ein Dreieck", "einem Dreieck", "eines Dreiecks", "Dreiecke", "Dreiecken"),
        ("star", "ein Stern", "einen Stern", "einem Stern", "eines Sterns", "Sterne", "Sternen"),
        ("heart", "ein Herz", "ein Herz", "einem Herzen", "eines Herzens", "Herzen", "Herzen"),
        ("cross", "ein Kreuz", "ein Kreuz", "einem Kreuz", "eines Kreuzes", "Kreuze", "Kreuzen"),
    ],
)
def test_german_nouns(
    shape: Shape, nominative: str, accusative: str, dative: str, genitive: str, plural: str, dative_plural: str
) -> None:
    def pink(noun: str) -> str:
        return " ".join([*noun.split()[:-1], "rosa", noun.split()[-1]])

    says(
        Scene(Thing(shape, "pink")),
        "german",
        *(pink(nominative), f"zu sehen ist {pink(nominative)}", f"das Bild zeigt {pink(accusative)}"),
        *(f"ein Bild von {pink(dative)}", f"die Zeichnung {pink(genitive)}"),
    )
    three = Scene(Thing(shape, "pink"), count=3)
    says(three, "german", f"drei {pink(plural)}", f"ein Bild von drei {pink(dative_plural)}")


@pytest.mark.parametrize(
    ("colour", "weak", "masculine", "neuter", "plural"),
    [
        # The accusative and genitive masculine, all datives, and the dative plural share the form in -en.
        ("red", "roten", "roter", "rotes", "rote"),
        ("orange", "orangefarbenen", "orangefarbener", "orangefarbenes", "orangefarbene"),
        ("yellow", "gelben", "gelber", "gelbes", "gelbe"),
        ("green", "grünen", "grüner", "grünes", "grüne"),
        ("blue", "blauen", "blauer", "blaues", "blaue"),
        ("purple", "violetten", "violetter", "violettes", "violette"),
        ("pink", "rosa", "rosa", "rosa", "rosa"),
        ("black", "schwarzen", "schwarzer", "schwarzes", "schwarze"),
    ],
)
def test_german_colours(colour: Colour, weak: str, masculine: str, neuter: str, plural: str) -> None:
    says(
        Scene(Thing("star", colour)),
        "german",
        *(f"ein {masculine} Stern", f"das Bild zeigt einen {weak} Stern", f"ein Bild mit einem {weak} Stern"),
        f"die Zeichnung eines {weak} Sterns",
    )
    says(
        Scene(Thing("square", colour)),
        "german",
        *(f"ein {neuter} Quadrat", f"das Bild zeigt ein {neuter} Quadrat", f"ein Bild mit einem {weak} Quadrat"),
        f"die Zeichnung eines {weak} Quadrats",
    )
    four = Scene(Thing("star", colour), count=4)
    says(four, "german", f"vier {plural} Sterne", f"eine Gruppe von vier {weak} Sternen")


@pytest.mark.parametrize(
    ("size", "weak", "masculine", "neuter", "plural"),
    [
        ("small", "kleinen", "kleiner", "kleines", "kleine"),
        ("medium", "mittelgroßen", "mittelgroßer", "mittelgroßes", "mittelgroße"),
        ("large", "großen", "großer", "großes", "große"),
    ],
)
def test_german_sizes(size: Size, weak: str, masculine: str, neuter: str, plural: str) -> None:
    says(
        Scene(Thing("circle", "red", size)),
        "german",
        *(f"ein {masculine} roter Kreis", f"das Bild zeigt einen {weak} roten Kreis"),
        *(f"ein Bild von einem {weak} roten Kreis", f"die Zeichnung eines {weak} roten Kreises"),
    )
    says(
        Scene(Thing("heart", "pink", size)),
        "german",
        *(f"ein {neuter} rosa Herz", f"das Bild zeigt ein {neuter} rosa Herz"),
        *(f"ein Bild von einem {weak} rosa Herzen", f"die Zeichnung eines {weak} rosa Herzens"),
    )
    two = Scene(Thing("cross", "blue", size), count=2)
    says(two, "german", f"zwei {plural} blaue Kreuze", f"ein Bild von zwei {weak} blauen Kreuzen")


@pytest.mark.parametrize(
    ("shape", "singular", "plural"),
    [
        ("circle", "un cercle", "cercles"),
        ("square", "un carré", "carrés"),
        ("triangle", "un triangle", "triangles"),
        ("star", "une étoile", "étoiles"),
        ("heart", "un cœur", "cœurs"),
        ("cross", "une croix", "croix"),
    ],
)
def test_french_nouns(shape: Shape, singular: str, plural: str) -> None:
    red, reds = Scene(Thing(shape, "red")), Scene(Thing(shape, "red"), count=2)
    says(red, "french", f"{singular} rouge", f"une image d'{singular} rouge")
    says(reds, "french", f"deux {plural} rouges", f"une image de deux {plural} rouges")


@pytest.mark.parametrize(
    ("colour", "masculine", "feminine", "masculine_plural", "feminine_plural"),
    [
        ("red", "rouge", "rouge", "rouges", "rouges"),
        ("orange", "orange", "orange", "orange", "orange"),
        ("yellow", "jaune", "jaune", "jaunes", "jaunes"),
        ("green", "vert", "verte", "verts", "vertes"),
        ("blue", "bleu", "bleue", "bleus", "bleues"),
        ("purple", "violet", "violette", "violets", "violettes"),
        ("pink", "rose", "rose", "roses", "roses"),
        ("black", "noir", "noire", "noirs", "noires"),
    ],
)
def test_french_colours(
    colour: Colour, masculine: str, feminine: str, masculine_plural: str, feminine_plural: str
) -> None:
    says(Scene(Thing("square", colour)), "french", f"un carré {masculine}", f"un dessin d'un carré {masculine}")
    says(Scene(Thing("cross", colour)), "french", f"une croix {feminine}", f"un dessin d'une croix {feminine}")
    says(Scene(Thing("square", colour), count=3), "french", f"il y a trois carrés {masculine_plural}")
    says(Scene(Thing("cross", colour), count=4), "french", f"l'image montre quatre croix {feminine_plural}")


@pytest.mark.parametrize(
    ("size", "masculine", "feminine", "masculine_plural", "feminine_plural"),
    [
        ("small", "un petit cœur noir", "une petite étoile noire", "petits cœurs noirs", "petites étoiles noires"),
        ("large", "un grand cœur noir", "une grande étoile noire", "grands cœurs noirs", "grandes étoiles noires"),
        (
            "medium",
            *("un cœur noir de taille moyenne", "une étoile noire de taille moyenne"),
            *("cœurs noirs de taille moyenne", "étoiles noires de taille moyenne"),
        ),
    ],
)
def test_french_sizes(size: Size, masculine: str, feminine: str, masculine_plural: str, feminine_plural: str) -> None:
    heart, star = Thing("heart", "black", size), Thing("star", "black", size)
    says(Scene(heart), "french", masculine, f"une image d'{masculine}")
    says(Scene(star), "french", feminine, f"une image d'{feminine}")
    says(Scene(heart, count=2), "french", f"deux {masculine_plural}", f"un dessin de deux {masculine_plural}")
    says(Scene(star, count=2), "french", f"deux {feminine_plural}", f"un groupe de deux {feminine_plural}")
