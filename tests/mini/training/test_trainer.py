"""The training loop: a run that was killed ends as if it had not been, and what it leaves is enough to go on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from x2i_platform.errors import TrainingError
from x2i_platform.mini.training.trainer import CHECKPOINT, LOG, Loss, Schedule, train

SCHEDULE = Schedule(steps=130, batch=8, lr=0.01, warmup=10, ema=0.9, save_every=30)
each_optimizer = pytest.mark.parametrize("muon", [True, False])


class Killed(BaseException):
    """Nothing may catch it, as nothing catches a kill."""


class Net(nn.Module):
    """An embedding, two inner matrices, a norm and a head too narrow for Muon."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 16)
        self.inner = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), nn.LayerNorm(16))
        self.head = nn.Linear(16, 4)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.inner(self.embedding(ids)))
        return found


def loss_of(net: Net, *, killed_at: int | None = None) -> Loss:
    """Tell numbers apart by their remainder; the numbers depend on the step alone."""

    def loss(step: int) -> Mapping[str, Tensor]:
        if step == killed_at:
            raise Killed
        ids = torch.randint(20, (32,), generator=torch.Generator().manual_seed(step))
        found = nn.functional.cross_entropy(net(ids), ids % 4)
        return {"loss": found, "share": (net(ids).argmax(-1) == ids % 4).float().mean()}

    return loss


def run(folder: Path, *, schedule: Schedule, killed_at: int | None = None) -> Net:
    net = Net()
    train(net, loss_of(net, killed_at=killed_at), schedule=schedule, folder=folder, title="test")
    return net


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def checkpoint(folder: Path) -> dict[str, Any]:
    """All that a checkpoint holds but the time it took."""
    found: dict[str, Any] = torch.load(folder / CHECKPOINT, weights_only=True)
    del found["seconds"]
    return found


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / LOG).read_text("utf-8").splitlines()]


def assert_same(one: object, other: object) -> None:
    """Bit for bit, all the way down."""
    assert type(one) is type(other)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list):
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)
    else:
        assert one == other


@each_optimizer
@pytest.mark.parametrize("kills", [(12,), (30,), (60, 61), (104, 118)])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path, muon: bool, kills: tuple[int, ...]) -> None:
    """Before a checkpoint, right at one, twice, and past a logged step that is taken again."""
    schedule = replace(SCHEDULE, muon=muon)
    whole = run(tmp_path / "whole", schedule=schedule)
    for step in kills:
        with pytest.raises(Killed):
            run(tmp_path / "killed", schedule=schedule, killed_at=step)
    resumed = run(tmp_path / "killed", schedule=schedule)
    assert_same(weights(resumed), weights(whole))
    assert_same(checkpoint(tmp_path / "killed"), checkpoint(tmp_path / "whole"))
    told = [[{**line, "seconds": 0} for line in log(tmp_path / name)] for name in ("killed", "whole")]
    assert told[0] == told[1]
    assert [line["step"] for line in told[0]] == [50, 100, 130]


def test_a_checkpoint_that_was_being_written_does_no_harm(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "killed", schedule=SCHEDULE, killed_at=70)
    whole = (tmp_path / "killed" / CHECKPOINT).read_bytes()
    (tmp_path / "killed" / f".{CHECKPOINT}.0123.part").write_bytes(whole[: len(whole) // 2])
    assert_same(
        weights(run(tmp_path / "killed", schedule=SCHEDULE)), weights(run(tmp_path / "whole", schedule=SCHEDULE))
    )


def test_what_is_logged(tmp_path: Path) -> None:
    run(tmp_path, schedule=SCHEDULE)
    for line in log(tmp_path):
        assert line.keys() == {"step", "seconds", "loss", "share", "norm"}
        assert all(math.isfinite(value) for value in line.values())


def test_a_finished_run_is_loaded_without_training(tmp_path: Path) -> None:
    finished = run(tmp_path, schedule=SCHEDULE)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert left.keys() == {CHECKPOINT, LOG}
    assert_same(weights(run(tmp_path, schedule=SCHEDULE, killed_at=SCHEDULE.steps - 1)), weights(finished))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == left


@each_optimizer
def test_the_model_learns(tmp_path: Path, muon: bool) -> None:
    net = run(tmp_path, schedule=replace(SCHEDULE, muon=muon))
    ids = torch.arange(20)
    assert (net(ids).argmax(-1) == ids % 4).all()


def test_the_averaged_weights_are_given_back(tmp_path: Path) -> None:
    net = Net()
    history = [weights(net)]
    loss = loss_of(net)

    def remember(step: int) -> Mapping[str, Tensor]:
        if step:
            history.append(weights(net))
        return loss(step)

    train(net, remember, schedule=SCHEDULE, folder=tmp_path, title="test")
    last = checkpoint(tmp_path)["model"]
    for name, found in weights(net).items():
        average = history[0][name].double()
        for step, now in enumerate([*(each[name] for each in history[1:]), last[name]]):
            decay = min(SCHEDULE.ema, (step + 1) / (step + 10))
            average = decay * average + (1 - decay) * now.double()
        torch.testing.assert_close(found.double(), average, rtol=1e-4, atol=1e-6)
        assert not torch.equal(found, last[name])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_update(tmp_path: Path, value: float) -> None:
    net = Net()
    loss, before = loss_of(net), dict[str, Tensor]()

    def spoilt(step: int) -> Mapping[str, Tensor]:
        before.update(weights(net))
        return {"loss": loss(step)["loss"] * (value if step == 40 else 1.0)}

    with pytest.raises(TrainingError, match="the gradient's norm is nan; nothing was updated"):
        train(net, spoilt, schedule=SCHEDULE, folder=tmp_path, title="test")
    assert_same(weights(net), before)
    assert checkpoint(tmp_path)["step"] == 30
    assert all(each.isfinite().all() for each in checkpoint(tmp_path)["model"].values())


def test_frozen_weights_stay_and_take_no_room(tmp_path: Path) -> None:
    net = Net()
    net.inner.requires_grad_(False)
    before = weights(net)
    train(net, loss_of(net), schedule=SCHEDULE, folder=tmp_path, title="test")
    moved = {name for name, now in weights(net).items() if not torch.equal(now, before[name])}
    assert moved == {"embedding.weight", "head.weight", "head.bias"}
    assert checkpoint(tmp_path)["model"].keys() == checkpoint(tmp_path)["average"].keys() == moved


@each_optimizer
def test_inner_matrices_alone_go_to_muon(tmp_path: Path, muon: bool) -> None:
    """Its update has equal singular values; AdamW's first one moves weights by the learning rate."""
    net = Net()
    before = weights(net)
    schedule = Schedule(steps=1, batch=8, lr=0.01, warmup=1, weight_decay=0.0, ema=0.0, muon=muon)
    train(net, loss_of(net), schedule=schedule, folder=tmp_path, title="test")
    moved = {name: now - before[name] for name, now in weights(net).items()}
    for name in ("inner.0.weight", "inner.2.weight"):
        values = torch.linalg.svdvals(moved.pop(name))
        assert bool(values.max() < 2 * values.median()) == muon
    for name, change in moved.items():
        assert float(change.abs().max()) == pytest.approx(0.01, rel=0.01), name


def test_the_learning_rate_rises_and_falls(tmp_path: Path) -> None:
    """A gradient that never changes moves a weight by the learning rate at each step."""
    net = nn.ParameterList([torch.zeros(1)])
    places = []

    def slope(step: int) -> Mapping[str, Tensor]:
        places.append(net[0].item())
        return {"loss": -net[0].sum()}

    schedule = Schedule(steps=50, batch=8, lr=0.1, warmup=10, weight_decay=0.0)
    train(net, slope, schedule=schedule, folder=tmp_path, title="test")
    rates = [after - before for before, after in pairwise(places)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)], rel=1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10] == pytest.approx(0.1, rel=1e-3)
    assert rates[30] == pytest.approx(0.0505, rel=1e-2), "half way down"
    assert rates[-1] < 0.003


def test_a_checkpoint_of_another_beginning_is_refused(tmp_path: Path) -> None:
    net = Net()
    train(net, loss_of(net), schedule=SCHEDULE, folder=tmp_path, title="test", inputs="these")
    for other, schedule, inputs in (
        (Net(), replace(SCHEDULE, lr=0.02), "these"),
        (Net(), SCHEDULE, "others"),
        (net, SCHEDULE, "these"),
    ):
        with pytest.raises(TrainingError, match=r"checkpoint\.pt is of another schedule, other weights .*; delete"):
            train(other, loss_of(other), schedule=schedule, folder=tmp_path, title="test", inputs=inputs)


def test_a_torn_line_of_the_log_is_cut_off(tmp_path: Path) -> None:
    net = Net()
    train(net, loss_of(net), schedule=SCHEDULE, folder=tmp_path, title="test")
    log = tmp_path / LOG
    whole = log.read_text(encoding="utf-8")
    log.write_text(whole + '{"step": 1', encoding="utf-8")
    again = Net()
    train(again, loss_of(again), schedule=SCHEDULE, folder=tmp_path, title="test")
    assert log.read_text(encoding="utf-8") == whole
