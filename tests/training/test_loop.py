"""The training loop on a miniature store: that it learns, stops before harm, and resumes as if it never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.conftest import World
from tests.training.recorder import LONG, KilledError, Recorder, assert_equal_states, tensors_of
from x2i_platform.config import TrainConfig
from x2i_platform.errors import TrainingError
from x2i_platform.models.model_folder import load_alignnet
from x2i_platform.training import checkpoint
from x2i_platform.training.checkpoint import TrainingState
from x2i_platform.training.loop import learning_rate


def test_training_brings_the_student_closer(sampled: World, tmp_path: Path) -> None:
    overrides = ("train.steps=40", "train.warmup_steps=5", "run.train.log_every=5", "run.train.checkpoint_every=20")
    recorder = Recorder(tmp_path).run(sampled.trainer(*overrides))
    losses = [metrics["kl_per_token"] for _, metrics in recorder.logged if "loss" in metrics]
    validation = [metrics["validation_kl_per_token"] for _, metrics in recorder.logged if "loss" not in metrics]
    assert losses[-1] < 0.6 * losses[0]
    assert validation[-1] < validation[1] < 0.8 * validation[0]


def test_metrics_come_at_fixed_steps(uninterrupted: Recorder) -> None:
    trained = [step for step, metrics in uninterrupted.logged if "loss" in metrics]
    validated = [step for step, metrics in uninterrupted.logged if "validation_kl_per_token" in metrics]
    assert trained == [3, 4, 6, 8, 9, 11]  # every third, and before each checkpoint
    assert validated == [0, 4, 8, 11]
    assert list(uninterrupted.states) == [4, 8, 11]
    config = TrainConfig(steps=11, warmup_steps=2, lr=1e-3)
    for step, metrics in uninterrupted.logged:
        if "loss" in metrics:
            assert metrics.keys() == {"loss", "kl_per_token", "lr", "grad_norm"}
            assert metrics["loss"] == pytest.approx(metrics["kl_per_token"] * (2 * (16 + 48) + 3 * 64))
            assert metrics["lr"] == learning_rate(step - 1, config=config)


@pytest.mark.parametrize("killed_at", [4, 8])
def test_a_resumed_training_is_the_uninterrupted_one(
    sampled: World, uninterrupted: Recorder, tmp_path: Path, killed_at: int
) -> None:
    first = Recorder(tmp_path / "first", die_after=killed_at)
    with pytest.raises(KilledError):
        first.run(sampled.trainer(*LONG))
    trainer = sampled.trainer(*LONG, "alignnet.init_seed=7")  # nothing may remain of its own beginning
    trainer.restore(checkpoint.load(first.path(killed_at)))
    second = Recorder(tmp_path / "second").run(trainer)
    assert first.logged + second.logged == uninterrupted.logged
    assert_equal_states(second.states[11], uninterrupted.states[11])


def test_the_average_follows_the_weights(sampled: World, uninterrupted: Recorder, tmp_path: Path) -> None:
    every_step = Recorder(tmp_path).run(sampled.trainer(*LONG, "run.train.checkpoint_every=1"))
    weights = [every_step.states[step].optimizer.weights["mlp.fc.1.bias"] for step in range(1, 12)]
    average = weights[0]
    for later in weights[1:]:
        average = 0.9 * average + 0.1 * later
    torch.testing.assert_close(uninterrupted.states[11].ema["mlp.fc.1.bias"], average)
    saved = load_alignnet(uninterrupted.path(11))
    assert torch.equal(saved.get_parameter("mlp.fc.1.bias"), uninterrupted.states[11].ema["mlp.fc.1.bias"])


def test_accumulation_is_a_larger_batch(sampled: World, tmp_path: Path) -> None:
    plain = Recorder(tmp_path / "plain").run(sampled.trainer())
    accumulated = Recorder(tmp_path / "accumulated").run(sampled.trainer("train.accumulation=4"))
    for (step, one), (same_step, other) in zip(plain.logged, accumulated.logged, strict=True):
        assert step == same_step
        assert other == pytest.approx(one, rel=1e-4)


def test_a_finished_training_does_nothing_more(sampled: World, uninterrupted: Recorder, tmp_path: Path) -> None:
    trainer = sampled.trainer(*LONG)
    trainer.restore(checkpoint.load(uninterrupted.path(11)))
    recorder = Recorder(tmp_path).run(trainer)
    assert not recorder.logged
    assert not recorder.states


def test_a_damaged_sample_is_named_before_it_does_harm(poisoned: tuple[World, str], tmp_path: Path) -> None:
    world, sample = poisoned
    trainer = world.trainer("run.train.log_every=1", "run.train.checkpoint_every=1")
    recorder = Recorder(tmp_path)
    with pytest.raises(
        TrainingError, match=rf"step \d: loss on samples .*{sample}.* is nan; nothing was updated"
    ) as error:
        recorder.run(trainer)
    last = max(recorder.states)
    assert f"step {last + 1}: " in str(error.value)
    assert_equal_states(TrainingState(trainer.strategy.state(), {}), recorder.states[last])
    assert all(torch.isfinite(tensor).all() for tensor in tensors_of(recorder.states[last]).values())


def test_a_gradient_that_is_not_finite_updates_nothing(sampled: World, tmp_path: Path) -> None:
    trainer = sampled.trainer("run.train.log_every=1", "run.train.checkpoint_every=1", "train.ema=0.5")
    recorder = Recorder(tmp_path, die_after=2)
    with pytest.raises(KilledError):
        recorder.run(trainer)
    trainer.alignnet.get_parameter("mlp.fc.1.bias").register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=r"step 3: gradient norm is (inf|nan); nothing was updated"):
        recorder.run(trainer)
    assert_equal_states(TrainingState(trainer.strategy.state(), trainer.average.weights), recorder.states[2])


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = TrainConfig(steps=104, warmup_steps=4, lr=2.0)
    assert [learning_rate(step, config=config) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert learning_rate(54, config=config) == pytest.approx(1.0)
    rates = [learning_rate(step, config=config) for step in range(4, 105)]
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-2] < 1e-3
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert learning_rate(0, config=TrainConfig(steps=1, warmup_steps=0, lr=2.0)) == 2.0
