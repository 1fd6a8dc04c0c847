"""DDP and ZeRO 1, 2, 3 on one and on two workers against a plain AdamW loop; states carried from each to the others.

All that needs a process group runs in processes of its own, two workers first and one after them, and leaves its
results in a folder; the tests read those.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from tests.training.conftest import World
from x2i_platform.config import AlignNetConfig, Recipe, TrainConfig
from x2i_platform.errors import TrainingError
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.recipes import override
from x2i_platform.training import checkpoint
from x2i_platform.training.checkpoint import TrainingState
from x2i_platform.training.loop import Data, Hooks, Trainer, Worker
from x2i_platform.training.strategy import MOMENTS, OptimizerState, Strategy, build_strategy

pytestmark = pytest.mark.slow  # every strategy on one and on two workers, in processes of their own
KINDS = ("ddp", "zero1", "zero2", "zero3")
STEPS, HALF = 10, 5
# The second layer of the projector is above the size up to which ZeRO-3 keeps a tensor whole on every worker (100,000);
# all other tensors are below it, and most of their sizes odd, so that parts must be padded.
DIMS = AlignNetDims(num_layers=3, hidden_size=9, text_tokens=5, prompt_dim=320, pooled_dim=5)
CONFIG = TrainConfig(batch_size=8, accumulation=2, lr=3e-4, precision="float32", max_grad_norm=0.5)
FROM = {"ddp": "zero3", "zero1": "zero2", "zero2": "ddp", "zero3": "zero1"}
"""Whose state, of the other number of workers, each strategy continues."""
WARM_KINDS = ("ddp", "zero3")
WARM = ("train.warm_start_steps=3", "train.steps=2", "train.accumulation=2")


@dataclass(frozen=True)
class Job:
    """What the workers are sent."""

    folder: Path
    recipe: Recipe
    dims: AlignNetDims
    data: Data
    poisoned: Data

    def state_folder(self, kind: str, world: int) -> Path:
        return self.folder / f"state-{kind}-{world}"

    def results(self, world: int, rank: int = 0) -> dict[str, Any]:
        results: dict[str, Any] = torch.load(self.folder / f"results-{world}-{rank}.pt", weights_only=True)
        return results


def build_alignnet(seed: int = 0) -> AlignNet:
    return AlignNet(AlignNetConfig(init_seed=seed), dims=DIMS)


@functools.cache
def make_batches() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return [(draw(8, 3, 5, 9), draw(8, 5, 320), draw(8, 5)) for _ in range(STEPS + 1)]


def loss_of(student: Any, states_BCSH: Tensor, prompt_embeds_BTE: Tensor, pooled_BP: Tensor) -> Tensor:
    conditioning: Conditioning = student(states_BCSH, mask_BS=torch.ones(states_BCSH.shape[0], 5, dtype=torch.bool))
    errors = (conditioning.prompt_embeds_BTE - prompt_embeds_BTE, conditioning.pooled_BP - pooled_BP)
    return 300 * errors[0].square().mean() + 10 * errors[1].square().mean()


def plain_loop() -> tuple[dict[str, Tensor], list[float]]:
    """Whole batches, one process, nothing of ours but AlignNet: final weights and the gradient norms."""
    alignnet, norms = build_alignnet(), []
    optimizer = torch.optim.AdamW(
        alignnet.parameters(), lr=CONFIG.lr, betas=CONFIG.betas, weight_decay=CONFIG.weight_decay
    )
    for step, batch in enumerate(make_batches()[:STEPS]):
        loss_of(alignnet, *batch).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(alignnet.parameters(), CONFIG.max_grad_norm)))
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
        optimizer.zero_grad()
    return {name: parameter.detach() for name, parameter in alignnet.named_parameters()}, norms


def rate(step: int) -> float:
    return CONFIG.lr * (1 - 0.05 * step)


def take_steps(strategy: Strategy, steps: range, *, rank: int, world: int, poison: bool = False) -> list[float]:
    """Gradient norms of some steps; with `poison`, a finite loss of the last worker has a gradient that is not."""
    size, norms = 8 // (2 * world), []
    for step in steps:
        for part in range(rank, 2 * world, world):
            loss = loss_of(strategy, *(tensor[part * size : (part + 1) * size] for tensor in make_batches()[step]))
            if poison and rank == world - 1:
                loss.register_hook(lambda gradient: gradient * float("nan"))
            strategy.backward(loss)
        norms.append(strategy.update(rate(step)))
    return norms


def build(kind: str, *, world: int, seed: int = 0) -> Strategy:
    return build_strategy(kind, alignnet=build_alignnet(seed), config=CONFIG, micro_batch=8 // (2 * world))


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in weights.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def equal_states(one: OptimizerState, other: OptimizerState) -> bool:
    return one.updates == other.updates and all(
        equal(getattr(one, part), getattr(other, part)) for part in ("weights", *MOMENTS)
    )


def from_scratch(kind: str, *, job: Job, rank: int, world: int) -> dict[str, Any]:
    """Ten steps, saved after five, then a step that must not be taken."""
    strategy = build(kind, world=world)
    norms = take_steps(strategy, range(HALF), rank=rank, world=world)
    state = TrainingState(strategy.state(), {})
    if rank == 0:
        checkpoint.save(job.state_folder(kind, world), state, alignnet=strategy.alignnet, recipe=job.recipe)
    norms += take_steps(strategy, range(HALF, STEPS), rank=rank, world=world)
    weights, before = copied(strategy.weights()), strategy.state()
    poisoned = take_steps(strategy, range(STEPS, STEPS + 1), rank=rank, world=world, poison=True)
    return {
        "norms": norms,
        "weights": weights,
        "poisoned_norm": poisoned[0],
        "untouched": equal_states(before, strategy.state()),
    }


def carry_on(kind: str, source: Path, *, rank: int, world: int) -> dict[str, Any]:
    """The last five steps from a saved state, by a strategy whose AlignNet began elsewhere."""
    strategy = build(kind, world=world, seed=5)
    state = checkpoint.load(source).optimizer
    strategy.restore(state)
    kept = equal_states(state, strategy.state())
    norms = take_steps(strategy, range(HALF, STEPS), rank=rank, world=world)
    return {"kept": kept, "norms": norms, "weights": copied(strategy.weights()), "updates": strategy.updates}


def autocast_dtype(kind: str) -> str:
    config = CONFIG.model_copy(update={"precision": "bfloat16"})
    strategy = build_strategy(kind, alignnet=build_alignnet(), config=config, micro_batch=4)
    states_BCSH, *_ = make_batches()[0]
    return str(strategy(states_BCSH, mask_BS=torch.ones(8, 5, dtype=torch.bool)).prompt_embeds_BTE.dtype)


def train(job: Job, data: Data, *, rank: int, world: int) -> dict[str, Any]:
    """The real loop on the miniature: what it logged, and the error that stopped it."""
    trainer, logged, message = Trainer(job.recipe, dims=job.dims, worker=Worker(rank, world, "cpu"), data=data), [], ""
    hooks = Hooks(log=lambda step, metrics: logged.append((step, metrics)), save=lambda *_: None)
    try:
        trainer.train(hooks)
    except TrainingError as error:
        message = str(error)
    return {"logged": logged, "error": message, "updates": trainer.strategy.updates}


def work(rank: int, world: int, job: Job) -> None:
    """Everything one worker does."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    meeting = f"file://{job.folder}/meeting-{world}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    results: dict[str, Any] = {}
    for kind in KINDS:
        results[f"{kind} from scratch"] = from_scratch(kind, job=job, rank=rank, world=world)
    torch.distributed.barrier()
    for kind in KINDS:
        results[f"{kind} same"] = carry_on(kind, job.state_folder(kind, world), rank=rank, world=world)
        other = job.state_folder("ddp", 1) if world == 2 else job.state_folder(FROM[kind], 2)
        results[f"{kind} other"] = carry_on(kind, other, rank=rank, world=world)
    if world == 1:
        results["dtypes"] = [autocast_dtype(kind) for kind in ("ddp", "zero1", "zero3")]
    else:
        results["loop"] = train(job, job.data, rank=rank, world=world)
        results["poisoned loop"] = train(job, job.poisoned, rank=rank, world=world)
        for kind in WARM_KINDS:
            warm = replace(job, recipe=override(job.recipe, [*WARM, f"run.train.strategy={kind}"]))
            results[f"{kind} warm loop"] = train(warm, job.data, rank=rank, world=world)
    torch.save(results, job.folder / f"results-{world}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def job(sampled: World, poisoned: tuple[World, str], tmp_path_factory: pytest.TempPathFactory) -> Job:
    overrides = {"strategy": "zero2", "workers": 2, "log_every": 1}
    run = sampled.recipe.run.model_copy(update={"train": sampled.recipe.run.train.model_copy(update=overrides)})
    recipe = sampled.recipe.model_copy(update={"run": run})
    return Job(tmp_path_factory.mktemp("strategies"), recipe, sampled.dims, sampled.data, poisoned[0].data)


@pytest.fixture(scope="module")
def finished(job: Job) -> Job:
    """The job, done: one plain DDP state first, then two workers, then one."""
    strategy = build("ddp", world=1)
    take_steps(strategy, range(HALF), rank=0, world=1)
    state = TrainingState(strategy.state(), {})
    checkpoint.save(job.state_folder("ddp", 1), state, alignnet=strategy.alignnet, recipe=job.recipe)
    # One clean process imports for all workers; they are forked from it and not from this one.
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(["deepspeed", "x2i_platform.training.loop"])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DS_ACCELERATOR", "cpu")
        environment.setenv("OMP_NUM_THREADS", "1")
        for world in (2, 1):
            start_processes(work, args=(world, job), nprocs=world, start_method="forkserver")
    return job


def assert_is_the_plain_loop(result: dict[str, Any], *, steps: range) -> None:
    weights, norms = plain_loop()
    assert result["norms"] == pytest.approx([norms[step] for step in steps], rel=1e-5)
    for name, weight in weights.items():
        # What the convolution's bias adds, the LayerNorm takes away: AdamW makes steps out of its gradient's rounding.
        if name != "conv.bias":
            torch.testing.assert_close(result["weights"][name], weight, rtol=0, atol=1e-5, msg=name)


def test_the_problem_is_clipped_and_moves() -> None:
    weights, norms = plain_loop()
    start = dict(build_alignnet().named_parameters())
    assert min(norms) > CONFIG.max_grad_norm
    assert all((weights[name] - start[name]).abs().max() > 1e-3 for name in weights if name != "conv.bias")


@pytest.mark.parametrize(("kind", "world"), product(KINDS, (1, 2)))
def test_every_strategy_is_the_plain_loop(finished: Job, kind: str, world: int) -> None:
    for rank in range(world):
        assert_is_the_plain_loop(finished.results(world, rank)[f"{kind} from scratch"], steps=range(STEPS))


@pytest.mark.parametrize(("kind", "world"), product(KINDS, (1, 2)))
def test_the_same_strategy_continues_bit_for_bit(finished: Job, kind: str, world: int) -> None:
    results = finished.results(world)
    continued, whole = results[f"{kind} same"], results[f"{kind} from scratch"]
    assert continued["kept"]
    assert continued["updates"] == STEPS
    assert continued["norms"] == whole["norms"][HALF:]
    assert equal(continued["weights"], whole["weights"])


@pytest.mark.parametrize(("kind", "world"), product(KINDS, (1, 2)))
def test_another_strategy_on_other_workers_continues(finished: Job, kind: str, world: int) -> None:
    continued = finished.results(world)[f"{kind} other"]
    assert continued["kept"]
    assert_is_the_plain_loop(continued, steps=range(HALF, STEPS))


@pytest.mark.parametrize(("kind", "world"), product(KINDS, (1, 2)))
def test_a_gradient_that_is_not_finite_changes_nothing_on_any_worker(finished: Job, kind: str, world: int) -> None:
    for rank in range(world):
        result = finished.results(world, rank)[f"{kind} from scratch"]
        assert not torch.isfinite(torch.tensor(result["poisoned_norm"]))
        assert result["untouched"]


def test_precision_reaches_alignnet_in_every_strategy(finished: Job) -> None:
    assert finished.results(1)["dtypes"] == ["torch.bfloat16"] * 3


@pytest.mark.parametrize(("name", "overrides"), [("loop", ()), *((f"{kind} warm loop", WARM) for kind in WARM_KINDS)])
def test_two_workers_log_what_one_logs(finished: Job, sampled: World, name: str, overrides: Any) -> None:
    logged = [finished.results(2, rank)[name]["logged"] for rank in range(2)]
    alone: list[tuple[int, dict[str, float]]] = []
    hooks = Hooks(log=lambda step, metrics: alone.append((step, metrics)), save=lambda *_: None)
    sampled.trainer("run.train.log_every=1", *overrides).train(hooks)
    for entries in logged:
        assert [step for step, _ in entries] == [step for step, _ in alone]
        for (_, metrics), (_, wanted) in zip(entries, alone, strict=True):
            assert metrics.keys() == wanted.keys()
            same = {key: value for key, value in wanted.items() if not key.endswith("samples_per_s")}
            assert {key: metrics[key] for key in same} == pytest.approx(same, rel=1e-4)


def test_workers_stop_together_at_a_damaged_sample(finished: Job, poisoned: tuple[World, str]) -> None:
    one, other = (finished.results(2, rank)["poisoned loop"] for rank in range(2))
    assert poisoned[1] in one["error"]
    assert "nothing was updated" in one["error"]
    assert one["error"] == other["error"]
    assert one["updates"] == other["updates"] < finished.recipe.train.steps
