"""Describes scenes in simplified Chinese.

Invariants: 个 is the measure word of every shape; "above" is 上方, because 上面 may mean "lying on"; a heart
is 爱心, because 小心形 would start with "take care" (小心).
"""

from __future__ import annotations

from x2i_platform.mini.scenes import CONVERSE, Colour, Relation, Shape, Size, Thing

NOUNS: dict[Shape, str] = {
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "五角星",
    "heart": "爱心",
    "cross": "十字形",
}
COLOURS: dict[Colour, str] = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "black": "黑色",
}
PATTERNS: dict[Size | None, str] = {
    None: "{colour}的{noun}",
    "small": "{colour}的小{noun}",
    "medium": "中等大小的{colour}{noun}",
    "large": "{colour}的大{noun}",
}
SHORT_PATTERNS: dict[Size | None, str] = {
    None: "{colour}{noun}",
    "small": "{colour}小{noun}",
    "medium": "中等大小的{colour}{noun}",
    "large": "{colour}大{noun}",
}
"""Patterns without 的 if possible, as in titles."""
NUMERALS = {1: "一", 2: "两", 3: "三", 4: "四"}
PLACES: dict[Relation, tuple[str, str]] = {
    "left of": ("左边", "左侧"),
    "right of": ("右边", "右侧"),
    "above": ("上方", "正上方"),
    "below": ("下方", "正下方"),
}


def one(thing: Thing) -> list[str]:
    """Describe a single thing."""
    return several(thing, count=1)


def several(thing: Thing, *, count: int) -> list[str]:
    """Describe one to four equal things."""
    plain, short = _counted(thing, count=count), f"{NUMERALS[count]}个{_short(thing)}"
    return [plain, short, f"图中有{plain}", f"画面上有{short}", f"这里有{plain}", f"画着{short}的图片"]


def placed(first: Thing, *, relation: Relation, second: Thing) -> list[str]:
    """Describe two things and the position of the first relative to the second."""
    a, b = _counted(first), _counted(second)
    short_a, short_b = _short(first), _short(second)
    here, there = PLACES[relation], PLACES[CONVERSE[relation]]
    return [
        f"{a}在{b}的{here[0]}",
        f"一个{short_a}位于一个{short_b}的{here[1]}",
        f"{short_b}的{here[0]}有{a}",
        f"{short_b}{here[0]}的{short_a}",
        f"图中{short_a}在{short_b}的{here[0]}",
        f"{here[0]}是{short_a}，{there[0]}是{short_b}",
        f"{b}在{a}的{there[0]}",
        f"{short_a}的{there[1]}有{b}",
        f"{short_a}{there[0]}的{short_b}",
    ]


def together(first: Thing, *, second: Thing) -> list[str]:
    """Describe two things without their positions."""
    a, b = _counted(first), _counted(second)
    short_a, short_b = _short(first), _short(second)
    return [
        *(f"{a}和{b}", f"{b}和{a}", f"{a}与{b}", f"{short_a}和{short_b}", f"{short_b}与{short_a}"),
        *(f"图中有{a}和{b}", f"画着{b}和{a}的图片", f"既有{a}，也有{b}"),
    ]


def _counted(thing: Thing, *, count: int = 1) -> str:
    return f"{NUMERALS[count]}个" + PATTERNS[thing.size].format(colour=COLOURS[thing.colour], noun=NOUNS[thing.shape])


def _short(thing: Thing) -> str:
    return SHORT_PATTERNS[thing.size].format(colour=COLOURS[thing.colour], noun=NOUNS[thing.shape])
