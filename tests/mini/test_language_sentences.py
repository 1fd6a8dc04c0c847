"""Whole sentences of each language and category, written by hand; the first of each is the canonical."""

from __future__ import annotations

import pytest

from x2i_platform.mini.languages import Language, caption, phrasings
from x2i_platform.mini.scenes import Colour, Relation, Scene, Shape, Size, Thing

RED_CIRCLE, BLUE_SQUARE = Thing("circle", "red"), Thing("square", "blue")
SMALL_HEART = Scene(Thing("heart", "orange", "small"))
YELLOW_STAR = Scene(Thing("star", "yellow"))
THREE_CROSSES = Scene(Thing("cross", "green", "large"), count=3)
TWO_TRIANGLES = Scene(Thing("triangle", "black"), count=2)
LEFT = Scene(Thing("circle", "red", "large"), relation="left of", second=Thing("square", "blue", "small"))
RIGHT = Scene(RED_CIRCLE, relation="right of", second=BLUE_SQUARE)
ABOVE = Scene(Thing("star", "pink", "medium"), relation="above", second=Thing("cross", "purple", "large"))
BELOW = Scene(RED_CIRCLE, relation="below", second=BLUE_SQUARE)
BOTH = Scene(RED_CIRCLE, second=Thing("heart", "orange"))

SENTENCES: dict[Language, list[tuple[Scene, list[str]]]] = {
    "english": [
        (SMALL_HEART, ["a small orange heart", "a little orange heart", "there is a little orange heart"]),
        (YELLOW_STAR, ["a yellow star", "one yellow star", "an image of a yellow star"]),
        (
            THREE_CROSSES,
            ["three large green crosses", "three big green crosses", "there are three large green crosses"],
        ),
        (TWO_TRIANGLES, ["two black triangles", "a group of two black triangles"]),
        (
            LEFT,
            [
                "a large red circle to the left of a small blue square",
                "a large red circle left of a small blue square",
                "a big red circle to the left of a little blue square",
                "a large red circle with a small blue square on its right",
                "a large red circle on the left and a small blue square on the right",
                "a small blue square on the right of a large red circle",
                "a little blue square with a big red circle on its left",
            ],
        ),
        (RIGHT, ["a red circle to the right of a blue square", "a blue square with a red circle on its right"]),
        (ABOVE, ["a medium pink star above a large purple cross", "a large purple cross under a medium pink star"]),
        (BELOW, ["a red circle below a blue square", "a red circle with a blue square above it"]),
        (BOTH, ["a red circle and an orange heart", "an orange heart and a red circle"]),
    ],
    "german": [
        (SMALL_HEART, ["ein kleines orangefarbenes Herz", "ein Bild mit einem kleinen orangefarbenen Herzen"]),
        (YELLOW_STAR, ["ein gelber Stern", "das Bild zeigt einen gelben Stern"]),
        (THREE_CROSSES, ["drei große grüne Kreuze", "eine Gruppe von drei großen grünen Kreuzen"]),
        (TWO_TRIANGLES, ["zwei schwarze Dreiecke", "zu sehen sind zwei schwarze Dreiecke"]),
        (
            LEFT,
            [
                "ein großer roter Kreis links von einem kleinen blauen Quadrat",
                "ein großer roter Kreis links neben einem kleinen blauen Quadrat",
                "links von einem kleinen blauen Quadrat ist ein großer roter Kreis",
                "ein Bild von einem großen roten Kreis links von einem kleinen blauen Quadrat",
                "das Bild zeigt einen großen roten Kreis links neben einem kleinen blauen Quadrat",
                "ein großer roter Kreis mit einem kleinen blauen Quadrat rechts davon",
                "links ein großer roter Kreis und rechts ein kleines blaues Quadrat",
                "ein kleines blaues Quadrat rechts von einem großen roten Kreis",
            ],
        ),
        (
            RIGHT,
            ["ein roter Kreis rechts von einem blauen Quadrat", "rechts ein roter Kreis und links ein blaues Quadrat"],
        ),
        (
            ABOVE,
            [
                "ein mittelgroßer rosa Stern über einem großen violetten Kreuz",
                "ein mittelgroßer rosa Stern mit einem großen violetten Kreuz darunter",
            ],
        ),
        (BELOW, ["ein roter Kreis unter einem blauen Quadrat", "ein blaues Quadrat mit einem roten Kreis darunter"]),
        (
            BOTH,
            [
                "ein roter Kreis und ein orangefarbenes Herz",
                "ein roter Kreis mit einem orangefarbenen Herzen",
                "ein Bild von einem roten Kreis und einem orangefarbenen Herzen",
            ],
        ),
    ],
    "french": [
        (SMALL_HEART, ["un petit cœur orange", "une image d'un petit cœur orange"]),
        (YELLOW_STAR, ["une étoile jaune", "on voit une étoile jaune"]),
        (THREE_CROSSES, ["trois grandes croix vertes", "une image de trois grandes croix vertes"]),
        (TWO_TRIANGLES, ["deux triangles noirs", "un groupe de deux triangles noirs"]),
        (
            LEFT,
            [
                "un grand cercle rouge à gauche d'un petit carré bleu",
                "à gauche d'un petit carré bleu, il y a un grand cercle rouge",
                "un grand cercle rouge avec un petit carré bleu à sa droite",
                "un grand cercle rouge à gauche et un petit carré bleu à droite",
                "un petit carré bleu à droite d'un grand cercle rouge",
            ],
        ),
        (RIGHT, ["un cercle rouge à droite d'un carré bleu", "un carré bleu avec un cercle rouge à sa droite"]),
        (
            ABOVE,
            [
                "une étoile rose de taille moyenne au-dessus d'une grande croix violette",
                "une étoile rose de taille moyenne avec une grande croix violette en dessous",
                "une étoile rose de taille moyenne en haut et une grande croix violette en bas",
            ],
        ),
        (BELOW, ["un cercle rouge en dessous d'un carré bleu", "un carré bleu au-dessus d'un cercle rouge"]),
        (
            BOTH,
            [
                "un cercle rouge et un cœur orange",
                "un cœur orange ainsi qu'un cercle rouge",
                "une image d'un cercle rouge et d'un cœur orange",
            ],
        ),
    ],
    "chinese": [
        (SMALL_HEART, ["一个橙色的小爱心", "一个橙色小爱心", "图中有一个橙色的小爱心"]),
        (YELLOW_STAR, ["一个黄色的五角星", "画着一个黄色五角星的图片"]),
        (THREE_CROSSES, ["三个绿色的大十字形", "画面上有三个绿色大十字形"]),
        (TWO_TRIANGLES, ["两个黑色的三角形", "这里有两个黑色的三角形"]),
        (
            LEFT,
            [
                "一个红色的大圆形在一个蓝色的小正方形的左边",
                "蓝色小正方形的左边有一个红色的大圆形",
                "蓝色小正方形左边的红色大圆形",
                "左边是红色大圆形，右边是蓝色小正方形",
                "一个蓝色的小正方形在一个红色的大圆形的右边",
            ],
        ),
        (RIGHT, ["一个红色的圆形在一个蓝色的正方形的右边", "蓝色正方形右边的红色圆形"]),
        (ABOVE, ["一个中等大小的粉色五角星在一个紫色的大十字形的上方", "紫色大十字形上方的中等大小的粉色五角星"]),
        (BELOW, ["一个红色的圆形在一个蓝色的正方形的下方", "下方是红色圆形，上方是蓝色正方形"]),
        (BOTH, ["一个红色的圆形和一个橙色的爱心", "红色圆形和橙色爱心", "既有一个红色的圆形，也有一个橙色的爱心"]),
    ],
    "japanese": [
        (SMALL_HEART, ["小さなオレンジ色のハート", "小さなオレンジ色のハートが一つ"]),
        (YELLOW_STAR, ["黄色い星", "黄色い星を描いた絵"]),
        (THREE_CROSSES, ["三つの大きな緑の十字", "大きな緑の十字が三つ", "大きな緑の十字が三つ描かれた絵"]),
        (TWO_TRIANGLES, ["二つの黒い三角形", "黒い三角形が二つある"]),
        (
            LEFT,
            [
                "小さな青い正方形の左にある大きな赤い円",
                "大きな赤い円が小さな青い正方形の左にある",
                "小さな青い正方形の左側に大きな赤い円がある",
                "左に大きな赤い円、右に小さな青い正方形がある",
                "大きな赤い円の右にある小さな青い正方形",
            ],
        ),
        (RIGHT, ["青い正方形の右にある赤い円", "赤い円の左にある青い正方形"]),
        (ABOVE, ["大きな紫の十字の上にある中くらいのピンクの星", "上に中くらいのピンクの星、下に大きな紫の十字がある"]),
        (BELOW, ["青い正方形の下にある赤い円", "下に赤い円、上に青い正方形がある"]),
        (
            BOTH,
            [
                "赤い円とオレンジ色のハート",
                "オレンジ色のハートと赤い円が描かれた絵",
                "オレンジ色のハートも赤い円もある",
            ],
        ),
    ],
    "vietnamese": [
        (SMALL_HEART, ["một trái tim nhỏ màu cam", "một trái tim cam nhỏ", "có một trái tim nhỏ màu cam"]),
        (YELLOW_STAR, ["một ngôi sao màu vàng", "bức tranh vẽ một ngôi sao vàng"]),
        (THREE_CROSSES, ["ba chữ thập lớn màu xanh lá", "hình ảnh ba chữ thập lớn màu xanh lá"]),
        (TWO_TRIANGLES, ["hai tam giác màu đen", "trong tranh có hai tam giác màu đen"]),
        (
            LEFT,
            [
                "một hình tròn lớn màu đỏ bên trái một hình vuông nhỏ màu xanh dương",
                "một hình tròn đỏ lớn ở bên trái một hình vuông xanh dương nhỏ",
                "bên trái một hình vuông xanh dương nhỏ là một hình tròn đỏ lớn",
                "một hình tròn đỏ lớn với một hình vuông xanh dương nhỏ ở bên phải",
                "một hình vuông nhỏ màu xanh dương bên phải một hình tròn lớn màu đỏ",
            ],
        ),
        (RIGHT, ["một hình tròn màu đỏ bên phải một hình vuông màu xanh dương"]),
        (ABOVE, ["một ngôi sao cỡ vừa màu hồng phía trên một chữ thập lớn màu tím"]),
        (BELOW, ["một hình tròn màu đỏ phía dưới một hình vuông màu xanh dương"]),
        (BOTH, ["một hình tròn màu đỏ và một trái tim màu cam", "một hình tròn đỏ cùng với một trái tim cam"]),
    ],
}


@pytest.mark.parametrize(
    ("language", "scene", "sentences"),
    [(language, scene, sentences) for language, cases in SENTENCES.items() for scene, sentences in cases],
)
def test_sentences(language: Language, scene: Scene, sentences: list[str]) -> None:
    said = phrasings(scene, language=language)
    assert said[0] == sentences[0]
    assert set(sentences) <= set(said), said


@pytest.mark.parametrize(
    ("colour", "chinese", "japanese", "vietnamese"),
    [
        ("red", "一个红色的圆形", "赤い円", "một hình tròn màu đỏ"),
        ("orange", "一个橙色的圆形", "オレンジ色の円", "một hình tròn màu cam"),
        ("yellow", "一个黄色的圆形", "黄色い円", "một hình tròn màu vàng"),
        ("green", "一个绿色的圆形", "緑の円", "một hình tròn màu xanh lá"),
        ("blue", "一个蓝色的圆形", "青い円", "một hình tròn màu xanh dương"),
        ("purple", "一个紫色的圆形", "紫の円", "một hình tròn màu tím"),
        ("pink", "一个粉色的圆形", "ピンクの円", "một hình tròn màu hồng"),
        ("black", "一个黑色的圆形", "黒い円", "một hình tròn màu đen"),
    ],
)
def test_colours_of_asian_languages(colour: Colour, chinese: str, japanese: str, vietnamese: str) -> None:
    assert plainest_of_asia(Scene(Thing("circle", colour))) == [chinese, japanese, vietnamese]


@pytest.mark.parametrize(
    ("size", "chinese", "japanese", "vietnamese"),
    [
        (None, "一个红色的圆形", "赤い円", "một hình tròn màu đỏ"),
        ("small", "一个红色的小圆形", "小さな赤い円", "một hình tròn nhỏ màu đỏ"),
        ("medium", "一个中等大小的红色圆形", "中くらいの赤い円", "một hình tròn cỡ vừa màu đỏ"),
        ("large", "一个红色的大圆形", "大きな赤い円", "một hình tròn lớn màu đỏ"),
    ],
)
def test_sizes_of_asian_languages(size: Size | None, chinese: str, japanese: str, vietnamese: str) -> None:
    assert plainest_of_asia(Scene(Thing("circle", "red", size))) == [chinese, japanese, vietnamese]


@pytest.mark.parametrize(
    ("shape", "chinese", "japanese", "vietnamese"),
    [
        ("circle", "四个黑色的圆形", "四つの黒い円", "bốn hình tròn màu đen"),
        ("square", "四个黑色的正方形", "四つの黒い正方形", "bốn hình vuông màu đen"),
        ("triangle", "四个黑色的三角形", "四つの黒い三角形", "bốn tam giác màu đen"),
        ("star", "四个黑色的五角星", "四つの黒い星", "bốn ngôi sao màu đen"),
        ("heart", "四个黑色的爱心", "四つの黒いハート", "bốn trái tim màu đen"),
        ("cross", "四个黑色的十字形", "四つの黒い十字", "bốn chữ thập màu đen"),
    ],
)
def test_shapes_of_asian_languages(shape: Shape, chinese: str, japanese: str, vietnamese: str) -> None:
    assert plainest_of_asia(Scene(Thing(shape, "black"), count=4)) == [chinese, japanese, vietnamese]


@pytest.mark.parametrize(
    ("relation", "opposite"), [("left of", "right of"), ("above", "below"), ("right of", "left of"), ("below", "above")]
)
def test_a_scene_may_be_told_from_either_thing(relation: Relation, opposite: Relation) -> None:
    scene = Scene(RED_CIRCLE, relation=relation, second=BLUE_SQUARE)
    for language in SENTENCES:
        converse = phrasings(Scene(BLUE_SQUARE, relation=opposite, second=RED_CIRCLE), language=language)
        assert converse[0] in phrasings(scene, language=language)


def test_english_is_the_language_unless_another_is_named() -> None:
    assert caption(LEFT, seed=1) == caption(LEFT, language="english", seed=1)


def plainest_of_asia(scene: Scene) -> list[str]:
    return [phrasings(scene, language=language)[0] for language in ("chinese", "japanese", "vietnamese")]
