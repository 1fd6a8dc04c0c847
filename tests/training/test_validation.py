"""Validation: what it is measured on, and with which weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.conftest import World
from tests.training.recorder import Recorder
from x2i_platform.training.data import Place
from x2i_platform.training.validation import shared_out


def test_what_ships_is_what_is_validated(sampled: World, uninterrupted: Recorder, tmp_path: Path) -> None:
    state = uninterrupted.states[11]
    for metric, weights in (
        ("validation_kl_per_token", state.ema),
        ("validation_kl_per_token_raw", state.optimizer.weights),
    ):
        trainer = sampled.trainer("train.steps=1")  # no average; it is validated before its first step
        trainer.alignnet.load_state_dict(weights)
        fresh = Recorder(tmp_path).run(trainer)
        assert fresh.series("validation_kl_per_token")[0] == pytest.approx(uninterrupted.series(metric)[11], rel=1e-5)
        assert not fresh.series("validation_kl_per_token_raw")
    assert list(uninterrupted.series("validation_kl_per_token_raw")) == [4, 8, 11]  # none before the first average
    assert (
        len({uninterrupted.series(name)[11] for name in ("validation_kl_per_token", "validation_kl_per_token_raw")})
        == 2
    )


@pytest.mark.parametrize(("count", "world"), [(0, 2), (1, 3), (5, 1), (5, 2), (6, 4)])
def test_workers_validate_equally_often_and_count_each_place_once(count: int, world: int) -> None:
    places = [Place(0, str(i)) for i in range(count)]
    shares = [shared_out(places, rank=rank, world=world) for rank in range(world)]
    assert len({len(mine) for mine, _ in shares}) == 1
    assert sorted(place for mine, counted in shares for place in mine[:counted]) == places


def test_nothing_held_out_is_no_hindrance(sampled: World, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path).run(sampled.trainer("train.validation_share=0", "train.steps=2"))
    assert [metrics for step, metrics in recorder.logged if step == 0] == [{}]
    assert list(recorder.states) == [2]
