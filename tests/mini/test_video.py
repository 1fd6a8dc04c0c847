"""Videos: they end as their picture, are the same in every run, and show nothing that training may not see."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice, pairwise

import numpy as np
import pytest
from PIL import Image

from x2i_platform.mini import video
from x2i_platform.mini.drawing import GROUND, Picture, Placed, draw_things, picture
from x2i_platform.mini.judge import judge
from x2i_platform.mini.scenes import (
    CONVERSE,
    HELD_OUT_COLOURS,
    HELD_OUT_RELATIONS,
    Category,
    Relation,
    Scene,
    Shape,
    Thing,
    scenes,
)
from x2i_platform.mini.video import FRAMES, STILL, frames

MANY = 600
PLAIN = Scene(Thing("star", "pink", "large"))
PAIR = Scene(Thing("star", "pink", "small"), relation="above", second=Thing("square", "black", "small"))

Frame = tuple[Placed, ...]


def pictures(category: Category | None = None, *, num: int = MANY) -> Iterator[tuple[Picture, int]]:
    """Pictures of scenes that training may see, each with its seed."""
    for seed, scene in enumerate(islice(scenes(category, held_out=False, seed=3), num)):
        yield picture(scene, seed=seed), seed


def moving_frames(shown: Picture, *, seed: int, patch: pytest.MonkeyPatch) -> list[Frame]:
    """What stands where in the frames before the picture is at rest."""
    drawn: list[Frame] = []

    def record(placed: Frame) -> Image.Image:
        drawn.append(placed)
        return draw_things(placed)

    with patch.context() as patched:
        patched.setattr(video, "draw_things", record)
        frames(shown, seed=seed)
    return drawn


def slides(shown: Picture, moving: list[Frame]) -> bool:
    """Whether things move, or else come one after the other."""
    return any(placed not in shown.placed for frame in moving for placed in frame)


def arrangements(frame: Frame) -> set[tuple[Shape, Relation, Shape]]:
    """Every pair of different shapes, under both of its names; written without the code under test."""
    found: set[tuple[Shape, Relation, Shape]] = set()
    for one, other in combinations(frame, 2):
        x, y = other.x - one.x, other.y - one.y
        relation: Relation = ("left of" if x > 0 else "right of") if abs(x) > abs(y) else "above" if y > 0 else "below"
        if one.thing.shape != other.thing.shape:
            found |= {(one.thing.shape, relation, other.thing.shape)}
            found |= {(other.thing.shape, CONVERSE[relation], one.thing.shape)}
    return found


def test_a_video_ends_as_its_picture() -> None:
    for shown, seed in pictures(num=60):
        film = frames(shown, seed=seed)
        assert [(frame.mode, frame.size) for frame in film] == [("RGB", (64, 64))] * FRAMES
        assert {frame.tobytes() for frame in film[-STILL:]} == {shown.draw().tobytes()}
        assert all(frame.tobytes() != film[-1].tobytes() for frame in film[:-STILL]), "something moves before"
        assert judge(film[-1], shown.scene).right


@pytest.mark.parametrize("scene", [PLAIN, PAIR])
def test_a_seed_always_gives_the_same_video(scene: Scene) -> None:
    shown = picture(scene, seed=4)
    first, again = ([frame.tobytes() for frame in frames(shown, seed=7)] for _ in range(2))
    assert first == again
    others = {b"".join(frame.tobytes() for frame in frames(shown, seed=seed)) for seed in range(20)}
    assert len(others) > 10


def test_no_frame_shows_what_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for shown, seed in pictures():
        for frame in moving_frames(shown, seed=seed, patch=monkeypatch):
            assert not {(placed.thing.colour, placed.thing.shape) for placed in frame} & HELD_OUT_COLOURS
            assert not arrangements(frame) & HELD_OUT_RELATIONS
            assert arrangements(frame) <= arrangements(shown.placed)


def test_things_come_one_after_the_other_each_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = set()
    for shown, seed in pictures("count", num=300):
        moving = moving_frames(shown, seed=seed, patch=monkeypatch)
        if slides(shown, moving):
            continue
        steps: list[set[Placed]] = [set(frame) for frame in [*moving, shown.placed]]
        assert all(before <= after for before, after in pairwise(steps))
        assert steps[-2] < steps[-1], "the last thing comes when the picture is whole"
        starts.add(len(steps[0]))
    assert starts == {1, 2, 3}, "also two or three at once"


def test_frames_of_things_that_come_are_parts_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pixels: each is the ground's or the picture's."""
    for shown, seed in pictures("position", num=60):
        if slides(shown, moving_frames(shown, seed=seed, patch=monkeypatch)):
            continue
        whole = np.asarray(shown.draw())
        for frame in frames(shown, seed=seed)[:-STILL]:
            pixels = np.asarray(frame)
            assert ((pixels == GROUND).all(-1) | (pixels == whole).all(-1)).all()
            assert (pixels != GROUND).any()


def test_things_slide_in_together_along_one_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = set()
    for shown, seed in pictures():
        moving = moving_frames(shown, seed=seed, patch=monkeypatch)
        if not slides(shown, moving):
            continue
        shifts: list[tuple[float, float]] = []
        for frame in moving:
            assert [(each.thing, each.radius) for each in frame] == [(p.thing, p.radius) for p in shown.placed]
            offsets = {
                (round(now.x - rest.x, 6), round(now.y - rest.y, 6))
                for now, rest in zip(frame, shown.placed, strict=True)
            }
            assert len(offsets) == 1, "nothing moves against anything else"
            shifts += offsets
        far, near = shifts
        assert 0 in far
        assert tuple(map(np.sign, far)) == tuple(map(np.sign, near))
        assert max(map(abs, far)) >= max(map(abs, near)) > 0
        directions.add(tuple(int(np.sign(each)) for each in far))
    assert directions == {(-1, 0), (1, 0), (0, -1), (0, 1)}


def test_one_thing_slides_and_several_do_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(category: Category) -> set[bool]:
        return {slides(one, moving_frames(one, seed=s, patch=monkeypatch)) for one, s in pictures(category, num=60)}

    assert seen("single") == {True}
    assert seen("count") == seen("position") == seen("binding") == {True, False}
