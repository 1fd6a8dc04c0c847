"""What a recipe costs before anything runs: bytes, FLOPs, GPU-hours, money.

Sizes come from the models' configs, FLOPs from their formulas; the number of MLLM tokens in a caption is a guess from
its length, and so are the rows of table `mllm`. An answer is taken to be as long as it may be. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from x2i_platform.config import Recipe
from x2i_platform.costs import Costs
from x2i_platform.errors import ConfigError
from x2i_platform.recipes import nearest

DEFAULT_CAPTION_CHARS = 60
MFU = 0.4
"""Share of a GPU's peak that large matrix products reach in practice, data movement included; an assumption."""

GPUS = {"h200": 989.0, "h100": 989.0, "a100": 312.0, "l40s": 362.0, "rtx4090": 165.0, "b200": 2250.0}
"""Dense bf16 peak in TFLOP/s, from the makers' data sheets (SXM versions)."""


@dataclass(frozen=True)
class TablePlan:
    """One table of the store. Bytes are before zstd, which shrinks them to between 0.7 and 0.95."""

    table: str
    bytes_per_row: int
    total_bytes: int


@dataclass(frozen=True)
class Plan:
    """Costs of precomputing a number of captions and of the recipe's training on them."""

    recipe: str
    rows: int
    caption_chars: float
    """Mean length of a caption, from which its tokens are guessed."""
    tables: tuple[TablePlan, ...]
    total_bytes: int
    teacher_flops: int
    """T5, DiT forward and MLLM prefill or answer, one caption."""
    student_flops: int
    """AlignNet forward and backward, DiT forward and backward to its inputs, one sample."""
    train_samples: int
    gpu: str
    mfu: float
    precompute_gpu_hours: float
    train_gpu_hours: float
    price_per_gpu_hour: float | None
    cost: float | None


def plan_recipe(
    recipe: Recipe,
    *,
    rows: int,
    caption_chars: float = DEFAULT_CAPTION_CHARS,
    gpu: str = "h100",
    price: float | None = None,
) -> Plan:
    """Price a recipe for a number of captions. Raises ConfigError for an unknown GPU or model."""
    if gpu not in GPUS:
        raise ConfigError(f"unknown GPU '{gpu}'{nearest(gpu, GPUS)}")
    costs = Costs.of(recipe, caption_chars=caption_chars)
    tables = tuple(TablePlan(table, size, size * rows) for table, size in costs.bytes_per_row().items())
    teacher, student = costs.teacher_flops(), costs.student_flops()
    train_samples = recipe.train.steps * recipe.train.batch_size
    flops_per_hour = GPUS[gpu] * 1e12 * MFU * 3600
    warm_start = recipe.train.warm_start_steps * recipe.train.batch_size * costs.alignnet_flops()
    train = train_samples * student + warm_start
    precompute_hours, train_hours = rows * teacher / flops_per_hour, train / flops_per_hour
    return Plan(
        recipe=recipe.name,
        rows=rows,
        caption_chars=caption_chars,
        tables=tables,
        total_bytes=sum(table.total_bytes for table in tables),
        teacher_flops=teacher,
        student_flops=student,
        train_samples=train_samples,
        gpu=gpu,
        mfu=MFU,
        precompute_gpu_hours=precompute_hours,
        train_gpu_hours=train_hours,
        price_per_gpu_hour=price,
        cost=None if price is None else price * (precompute_hours + train_hours),
    )


def require_budget(plan: Plan, *, recipe: Recipe) -> None:
    """Raise ConfigError, with settings that would fit, if the store would outgrow the recipe's byte budget."""
    budget = recipe.store.byte_budget
    if plan.total_bytes <= budget:
        return
    largest = max(plan.tables, key=lambda table: table.total_bytes)
    rows = budget * plan.rows // plan.total_bytes
    fits = [
        *_fitting_targets(plan, recipe=recipe),
        *([f"--limit {rows}"] if rows else []),
        "a larger store.byte_budget",
    ]
    raise ConfigError(
        f"the store would take {plan.total_bytes:,} bytes, store.byte_budget is {budget:,}; table '{largest.table}' "
        f"takes {largest.total_bytes / plan.total_bytes:.0%}. What would fit: {'; or '.join(fits)}"
    )


def _fitting_targets(plan: Plan, *, recipe: Recipe) -> Iterator[str]:
    """The smallest change to the targets that fits the budget, as `--set` options; nothing if none fits."""
    costs = Costs.of(recipe, caption_chars=plan.caption_chars)
    text, image = costs.tokens_kept()
    for halvings in range(max(text, image).bit_length()):
        change: dict[str, str | int] = {} if recipe.targets.codec == "int8" else {"codec": "int8"}
        if halvings:
            change |= {"text_tokens": max(1, text >> halvings), "image_tokens": max(1, image >> halvings)}
        smaller = recipe.model_copy(update={"targets": recipe.targets.model_copy(update=change)})
        bytes_per_row = sum(replace(costs, recipe=smaller).bytes_per_row().values())
        if bytes_per_row * plan.rows <= recipe.store.byte_budget:
            yield " ".join(f"--set targets.{name}={value}" for name, value in change.items())
            return
