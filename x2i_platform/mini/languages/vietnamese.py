"""Describes scenes in Vietnamese.

Invariants: shapes have their shortest common names ("tam giác", not "hình tam giác"), and "màu" is left out of
sentences that would have more than 18 syllables with it.
"""

from __future__ import annotations

from x2i_platform.mini.scenes import CONVERSE, Colour, Relation, Shape, Size, Thing

NOUNS: dict[Shape, str] = {
    "circle": "hình tròn",
    "square": "hình vuông",
    "triangle": "tam giác",
    "star": "ngôi sao",
    "heart": "trái tim",
    "cross": "chữ thập",
}
COLOURS: dict[Colour, str] = {
    "red": "đỏ",
    "orange": "cam",
    "yellow": "vàng",
    "green": "xanh lá",
    "blue": "xanh dương",
    "purple": "tím",
    "pink": "hồng",
    "black": "đen",
}
SIZES: dict[Size, str] = {"small": "nhỏ", "medium": "cỡ vừa", "large": "lớn"}
NUMERALS = {1: "một", 2: "hai", 3: "ba", 4: "bốn"}
PLACES: dict[Relation, str] = {
    "left of": "bên trái",
    "right of": "bên phải",
    "above": "phía trên",
    "below": "phía dưới",
}


def one(thing: Thing) -> list[str]:
    """Describe a single thing."""
    return several(thing, count=1)


def several(thing: Thing, *, count: int) -> list[str]:
    """Describe one to four equal things."""
    plain, short = _counted(thing, count=count), _counted_short(thing, count=count)
    return [
        *(plain, short, f"có {plain}", f"hình ảnh {plain}", f"bức tranh vẽ {plain}"),
        *(f"bức tranh vẽ {short}", f"trong tranh có {plain}"),
    ]


def placed(first: Thing, *, relation: Relation, second: Thing) -> list[str]:
    """Describe two things and the position of the first relative to the second."""
    a, b = _counted(first), _counted(second)
    short_a, short_b = _counted_short(first), _counted_short(second)
    here, there = PLACES[relation], PLACES[CONVERSE[relation]]
    return [
        f"{a} {here} {b}",
        f"{short_a} ở {here} {short_b}",
        f"{short_a} nằm ở {here} {short_b}",
        f"{here} {short_b} là {short_a}",
        f"{here} {short_b} có {short_a}",
        f"tranh vẽ {short_a} {here} {short_b}",
        f"{short_a} với {short_b} ở {there}",
        f"{b} {there} {a}",
        f"{short_b} ở {there} {short_a}",
        f"{there} {short_a} có {short_b}",
    ]


def together(first: Thing, *, second: Thing) -> list[str]:
    """Describe two things without their positions."""
    a, b = _counted(first), _counted(second)
    short_a, short_b = _counted_short(first), _counted_short(second)
    return [
        *(f"{a} và {b}", f"{b} và {a}", f"{short_a} cùng với {short_b}", f"{b} với {a}"),
        *(f"có {a} và {b}", f"có cả {short_b} và {short_a}", f"bức tranh vẽ {short_a} và {short_b}"),
    ]


def _counted(thing: Thing, *, count: int = 1) -> str:
    """Describe with the size before the colour: "một hình tròn nhỏ màu đỏ"."""
    words = [NUMERALS[count], NOUNS[thing.shape], thing.size and SIZES[thing.size], "màu", COLOURS[thing.colour]]
    return " ".join(word for word in words if word)


def _counted_short(thing: Thing, *, count: int = 1) -> str:
    """Describe with the colour before the size, as usual without "màu": "một hình tròn đỏ nhỏ"."""
    words = [NUMERALS[count], NOUNS[thing.shape], COLOURS[thing.colour], thing.size and SIZES[thing.size]]
    return " ".join(word for word in words if word)
