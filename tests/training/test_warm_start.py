"""The warm start: its loss against a direct computation, what it reads, and that it resumes as if it never stopped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.conftest import World
from tests.training.recorder import LONG, KilledError, Recorder, assert_equal_states
from x2i_platform.config import TrainConfig
from x2i_platform.errors import StoreError, TrainingError
from x2i_platform.features.reader import TextRow, read_text
from x2i_platform.features.schema import TARGETS, TEXT
from x2i_platform.models.alignnet import AlignNet
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.training import checkpoint
from x2i_platform.training.warm_start import (
    Spread,
    TextBatch,
    TextCollate,
    TextDataset,
    spread_of,
    warm_start_rate,
    warm_start_step,
)

WARM = (*LONG, "train.warm_start_steps=7", "train.warm_start_lr=0.01")


def text_rows(world: World) -> dict[str, TextRow]:
    commits = world.store.manifest().of(TEXT).values()
    return {sample: row for commit in commits for sample, row in read_text(world.store, commit).items()}


def make_batch(world: World, *, count: int = 4) -> TextBatch:
    dataset = TextDataset(world.url, world.manifest)
    return TextCollate("zero", text_tokens=48)([dataset[place] for place in world.places[0][:count]])


def says(prompt_embeds_BTE: torch.Tensor, pooled_BP: torch.Tensor) -> Any:
    """A student that puts these out."""
    return lambda *_, **__: Conditioning(prompt_embeds_BTE, pooled_BP)


@pytest.fixture(scope="module")
def uninterrupted(sampled: World, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    torch.set_num_threads(1)
    return Recorder(tmp_path_factory.mktemp("uninterrupted")).run(sampled.trainer(*WARM))


def test_the_loss_is_each_squared_error_over_its_variance(sampled: World) -> None:
    batch, rows = make_batch(sampled), text_rows(sampled)
    alignnet = AlignNet(sampled.recipe.alignnet, dims=sampled.dims)
    spread = spread_of(rows[place.sample_id] for place in sampled.places[0])
    with torch.no_grad():
        result = warm_start_step(alignnet, batch=batch, spread=spread)
        student = alignnet(batch.states_BCSH, mask_BS=batch.mask_BS)
    wanted = 0.0
    for output, field in ((student.prompt_embeds_BTE, "prompt_embeds_TE"), (student.pooled_BP, "pooled_P")):
        goal = np.stack([getattr(rows[sample], field).numpy() for sample in batch.sample_ids])
        everything = np.stack([getattr(rows[place.sample_id], field).numpy() for place in sampled.places[0]])
        wanted += ((output.numpy() - goal) ** 2).mean() / everything.var(dtype=np.float64)
    assert float(result.loss) == pytest.approx(wanted, rel=1e-5)
    assert result.sample_ids == batch.sample_ids


def test_what_the_encoders_said_has_no_loss_and_their_means_one_each(sampled: World) -> None:
    batch = make_batch(sampled)
    embeds, pooled = batch.prompt_embeds_BTE, batch.pooled_BP
    spread = spread_of([TextRow(embeds, pooled)])
    means = (torch.full_like(embeds, embeds.mean().item()), torch.full_like(pooled, pooled.mean().item()))
    assert float(warm_start_step(says(embeds, pooled), batch=batch, spread=spread).loss) == 0
    assert float(warm_start_step(says(*means), batch=batch, spread=spread).loss) == pytest.approx(2, rel=1e-4)
    # The DiT knows no mask, so a padded position counts like any other.
    assert not batch.mask_BS[0, -1]
    embeds = embeds.clone()
    embeds[0, -1] += 1
    loss = warm_start_step(says(embeds, pooled), batch=batch, spread=spread).loss
    assert float(loss) == pytest.approx(1 / (embeds.shape[0] * embeds.shape[1]) / spread.prompt_embeds, rel=1e-4)


def test_bfloat16_enters_the_loss_as_float32(sampled: World) -> None:
    batch, unit = make_batch(sampled), Spread(1.0, 1.0)
    halved = replace(batch, prompt_embeds_BTE=batch.prompt_embeds_BTE.bfloat16(), pooled_BP=batch.pooled_BP.bfloat16())
    student = says(batch.prompt_embeds_BTE.bfloat16() + 1, batch.pooled_BP.bfloat16())
    loss = warm_start_step(student, batch=halved, spread=unit).loss
    assert loss.dtype == torch.float32
    error = (student().prompt_embeds_BTE.double() - halved.prompt_embeds_BTE.double()).square().mean()
    assert float(loss) == pytest.approx(float(error), rel=1e-5)


def test_its_loss_falls_and_distillation_begins_closer(sampled: World, tmp_path: Path) -> None:
    steps = ("train.steps=1", "run.train.log_every=5", "run.train.checkpoint_every=60")
    recorder = Recorder(tmp_path / "warm").run(sampled.trainer(*steps, "train.warm_start_steps=60"))
    losses = list(recorder.series("warm_start/loss").values())
    validation = recorder.series("warm_start/validation_loss")
    cold = Recorder(tmp_path / "cold").run(sampled.trainer(*steps)).series("validation_kl_per_token")[0]
    assert losses[-1] < 0.75 * losses[0]
    assert validation[60] < 0.85 * validation[0]
    assert recorder.series("validation_kl_per_token")[0] < 0.8 * cold


def test_each_phase_logs_on_steps_of_its_own(uninterrupted: Recorder) -> None:
    warm, after = uninterrupted.series("warm_start/loss"), uninterrupted.series("loss")
    assert list(warm) == [3, 4, 6, 7]
    assert list(after) == [3, 4, 6, 8, 9, 11]
    assert list(uninterrupted.series("warm_start/validation_loss")) == [0, 4, 7]
    assert list(uninterrupted.series("validation_kl_per_token")) == [0, 4, 8, 11]
    assert list(uninterrupted.states) == [4, 7, 11, 15, 18]  # each phase ends with a checkpoint
    kinds = {frozenset(metrics) for _, metrics in uninterrupted.logged}
    assert frozenset(f"warm_start/{name}" for name in ("loss", "lr", "grad_norm")) in kinds
    assert len(kinds) == 5  # validation before the first average, and after
    config = TrainConfig(warm_start_steps=7, warm_start_lr=0.01, warmup_steps=2)
    rates = {step: warm_start_rate(step - 1, config=config) for step in warm}
    assert uninterrupted.series("warm_start/lr") == rates


@pytest.mark.parametrize("killed_at", [4, 7, 11])
def test_a_resumed_training_is_the_uninterrupted_one(
    sampled: World, uninterrupted: Recorder, tmp_path: Path, killed_at: int
) -> None:
    first = Recorder(tmp_path / "first", die_after=killed_at)
    with pytest.raises(KilledError):
        first.run(sampled.trainer(*WARM))
    trainer = sampled.trainer(*WARM, "alignnet.init_seed=7")  # nothing may remain of its own beginning
    trainer.restore(checkpoint.load(first.path(killed_at)))
    second = Recorder(tmp_path / "second").run(trainer)
    assert first.logged + second.logged == uninterrupted.logged
    assert_equal_states(second.states[18], uninterrupted.states[18])


def test_the_average_begins_with_distillation(sampled: World, uninterrupted: Recorder, tmp_path: Path) -> None:
    assert not uninterrupted.states[4].ema
    assert not uninterrupted.states[7].ema
    every_step = Recorder(tmp_path).run(sampled.trainer(*WARM, "run.train.checkpoint_every=1"))
    first = every_step.states[8]
    assert all(torch.equal(average, first.optimizer.weights[name]) for name, average in first.ema.items())
    assert first.ema.keys() == first.optimizer.weights.keys()


def test_it_reads_no_targets_and_distillation_no_text(sampled: World, tmp_path: Path) -> None:
    def without(table: str) -> str:
        folder = tmp_path / f"no {table}"
        shutil.copytree(sampled.url, folder)
        shutil.rmtree(folder / table)
        return str(folder)

    untaught = replace(sampled, url=without(TARGETS))
    first = Recorder(tmp_path / "first")
    with pytest.raises(StoreError, match=r"targets/.* it is gone"):
        first.run(untaught.trainer(*WARM))
    assert list(first.states) == [4, 7]
    untold = replace(sampled, url=without(TEXT))
    trainer = untold.trainer(*WARM)
    trainer.restore(checkpoint.load(first.path(7)))
    assert list(Recorder(tmp_path / "second").run(trainer).states) == [11, 15, 18]


def test_a_damaged_sample_is_named_before_it_does_harm(poisoned: tuple[World, str], tmp_path: Path) -> None:
    world, sample = poisoned
    recorder = Recorder(tmp_path)
    trainer = world.trainer("train.warm_start_steps=6", "run.train.checkpoint_every=1")
    with pytest.raises(TrainingError, match=rf"step \d: warm_start/loss on samples .*{sample}.* is nan; nothing was"):
        recorder.run(trainer)
    assert trainer.strategy.updates == max(recorder.states) < 6


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    config = TrainConfig(warm_start_steps=104, warm_start_lr=2.0, warmup_steps=4, lr=7.0)
    rates = [warm_start_rate(step, config=config) for step in range(104)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[53] == pytest.approx(1.1)
    assert rates[-1] == pytest.approx(0.2)
    alone = TrainConfig(warm_start_steps=3, warm_start_lr=2.0, warmup_steps=4)
    assert [warm_start_rate(step, config=alone) for step in range(3)] == [0.5, 1.0, 1.5]
