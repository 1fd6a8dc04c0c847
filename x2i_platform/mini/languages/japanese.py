"""Describes scenes in Japanese.

Invariants: a thing is never followed by の and a noun that its size could refer to ("大きな円の絵" could mean a large
picture). Positions may follow, because they have no size.
"""

from __future__ import annotations

from x2i_platform.mini.scenes import CONVERSE, Colour, Relation, Shape, Size, Thing

NOUNS: dict[Shape, str] = {
    "circle": "円",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星",
    "heart": "ハート",
    "cross": "十字",
}
COLOURS: dict[Colour, str] = {
    "red": "赤い",
    "orange": "オレンジ色の",
    "yellow": "黄色い",
    "green": "緑の",
    "blue": "青い",
    "purple": "紫の",
    "pink": "ピンクの",
    "black": "黒い",
}
SIZES: dict[Size | None, str] = {None: "", "small": "小さな", "medium": "中くらいの", "large": "大きな"}
NUMERALS = {1: "一つ", 2: "二つ", 3: "三つ", 4: "四つ"}
PLACES: dict[Relation, tuple[str, str]] = {
    "left of": ("左", "左側"),
    "right of": ("右", "右側"),
    "above": ("上", "上側"),
    "below": ("下", "下側"),
}


def one(thing: Thing) -> list[str]:
    """Describe a single thing."""
    named = _named(thing)
    return [
        *(named, f"一つの{named}", f"{named}が一つ", f"{named}がある"),
        *(f"{named}を描いた絵", f"{named}が描かれた絵", f"{named}が一つある"),
    ]


def several(thing: Thing, *, count: int) -> list[str]:
    """Describe two to four equal things."""
    named, number = _named(thing), NUMERALS[count]
    return [
        *(f"{number}の{named}", f"{named}が{number}", f"{named}が{number}ある", f"{number}の{named}がある"),
        *(f"{number}の{named}を描いた絵", f"{named}が{number}描かれた絵"),
    ]


def placed(first: Thing, *, relation: Relation, second: Thing) -> list[str]:
    """Describe two things and the position of the first relative to the second."""
    a, b = _named(first), _named(second)
    here, there = PLACES[relation], PLACES[CONVERSE[relation]]
    return [
        f"{b}の{here[0]}にある{a}",
        f"{a}が{b}の{here[0]}にある",
        f"{b}の{here[1]}に{a}がある",
        f"{b}の{here[0]}に{a}がある絵",
        f"{here[0]}に{a}、{there[0]}に{b}がある",
        f"{a}の{there[0]}にある{b}",
        f"{b}が{a}の{there[0]}にある",
        f"{a}の{there[1]}に{b}がある",
    ]


def together(first: Thing, *, second: Thing) -> list[str]:
    """Describe two things without their positions."""
    a, b = _named(first), _named(second)
    return [
        *(f"{a}と{b}", f"{b}と{a}", f"一つの{a}と一つの{b}", f"{a}と{b}がある"),
        *(f"{b}と{a}が描かれた絵", f"{a}と{b}を描いた絵", f"{b}も{a}もある"),
    ]


def _named(thing: Thing) -> str:
    return SIZES[thing.size] + COLOURS[thing.colour] + NOUNS[thing.shape]
