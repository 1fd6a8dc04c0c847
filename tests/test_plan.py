"""Plans against numbers worked out by hand, and budget errors whose advice is true."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from pipelines import RECIPES
from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError
from x2i_platform.plan import GPUS, MFU, Plan, plan_recipe, require_budget
from x2i_platform.recipes import load

REFERENCE = "flux-dev_qwen2.5-vl-7b"


def recipe(*overrides: str, name: str = REFERENCE) -> Recipe:
    return load(name, shipped=RECIPES, overrides=overrides)


def bytes_per_row(plan: Plan) -> dict[str, int]:
    return {table.table: table.bytes_per_row for table in plan.tables}


def test_bytes_at_flux_size_are_those_worked_out_by_hand() -> None:
    found = bytes_per_row(plan_recipe(recipe(), rows=1))
    # 512 T5 tokens of 4096 and CLIP's 768 in bfloat16.
    assert found["text"] == pytest.approx((512 * 4096 + 768) * 2, rel=1e-3)
    # 19 double blocks with 32 text and 96 image tokens apart, 38 single with 128 joint: int8, and float16 scales.
    double, single = 19 * ((32 + 96) * 3072 + 2 * 2 * 3072), 38 * (128 * 3072 + 2 * 3072)
    assert found["targets"] == pytest.approx(double + single, rel=2e-3)
    # Qwen2.5-VL-7B: 28 layers and the embedding, 3584 wide; the reference's template and 60 characters in 56 tokens.
    tokens = 16 + -(
        -(len("{'Text input': '', 'Instruction editing description': 'no', 'image input': 'no'}") + 60) // 3.5
    )
    assert found["mllm"] == pytest.approx(29 * tokens * 3584 * 2, rel=1e-3)


def test_bytes_of_other_choices() -> None:
    everything = recipe("targets.codec=bf16", "targets.image_tokens=all", "targets.text_tokens=all")
    # All 4608 tokens of all 57 blocks in bfloat16: 1.6 GB a caption.
    assert bytes_per_row(plan_recipe(everything, rows=1))["targets"] == pytest.approx(57 * 4608 * 3072 * 2, rel=1e-4)
    few = recipe("targets.taps=[single.0, double.3.text]")
    assert bytes_per_row(plan_recipe(few, rows=1))["targets"] == pytest.approx((128 + 32 + 4) * 3072, rel=2e-3)
    reference = bytes_per_row(plan_recipe(recipe("alignnet.padding=reference"), rows=1))
    assert reference["mllm"] == pytest.approx(29 * 512 * 3584 * 2, rel=1e-4)
    wide = bytes_per_row(plan_recipe(recipe("mllm.dtype=float32"), rows=1))
    assert wide["mllm"] == pytest.approx(2 * bytes_per_row(plan_recipe(recipe(), rows=1))["mllm"], rel=1e-3)


def test_flops_hours_and_money_at_flux_size() -> None:
    plan = plan_recipe(recipe("train.steps=1000", "train.batch_size=8"), rows=10_000, gpu="h100", price=2.5)
    # 74.4 TFLOP of DiT forward, 24 T5 layers on 512 tokens (2 x 193 M weights a layer), and a short prefill of 7 B.
    t5 = 24 * 512 * 2 * (4 * 4096**2 + 3 * 4096 * 10240)
    assert plan.teacher_flops == pytest.approx(74.4e12 + t5 + 57 * 2 * 6.5e9, rel=0.005)
    # Checkpointed: forward twice, 89.2 TFLOP backward; AlignNet is a rounding error.
    assert plan.student_flops == pytest.approx(2 * 74.4e12 + 89.2e12, rel=0.005)
    plain = plan_recipe(recipe("train.gradient_checkpointing=false"), rows=1)
    assert plan.student_flops - plain.student_flops == pytest.approx(74.4e12, rel=0.005)
    assert plan.train_samples == 8000
    seconds = 10_000 * plan.teacher_flops / (989e12 * MFU)
    assert plan.precompute_gpu_hours == pytest.approx(seconds / 3600)
    assert plan.cost == pytest.approx(2.5 * (plan.precompute_gpu_hours + plan.train_gpu_hours))


def test_every_cost_is_linear_in_its_own_count() -> None:
    one, many = (plan_recipe(recipe(), rows=rows) for rows in (1, 1000))
    assert many.total_bytes == 1000 * one.total_bytes == sum(table.total_bytes for table in many.tables)
    assert many.precompute_gpu_hours == pytest.approx(1000 * one.precompute_gpu_hours)
    assert many.train_gpu_hours == one.train_gpu_hours
    assert many.cost is None
    times = {gpu: plan_recipe(recipe(), rows=1, gpu=gpu).train_gpu_hours for gpu in GPUS}
    assert times["rtx4090"] / times["h100"] == pytest.approx(989 / 165)


def test_every_shipped_recipe_can_be_planned() -> None:
    for path in RECIPES.glob("*.yaml"):
        assert plan_recipe(recipe(name=path.stem), rows=100_000, gpu="h100").total_bytes > 0


def test_an_unknown_gpu_is_named_with_its_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown GPU 'h10'; did you mean 'h100'"):
        plan_recipe(recipe(), rows=1, gpu="h10")


@pytest.mark.parametrize(
    ("overrides", "rows", "budget", "options"),
    [
        (["targets.codec=bf16"], 70_000, 3 * 10**12, ["targets.codec=int8"]),
        ([], 100_000, 2 * 10**12, ["targets.text_tokens=4", "targets.image_tokens=12"]),
        (["targets.image_tokens=all"], 10_000, 4 * 10**12, ["targets.text_tokens=16", "targets.image_tokens=2048"]),
    ],
)
def test_a_budget_error_names_settings_that_fit(
    overrides: list[str], rows: int, budget: int, options: list[str]
) -> None:
    asked = recipe(*overrides, f"store.byte_budget={budget}")
    plan = plan_recipe(asked, rows=rows)
    with pytest.raises(ConfigError) as caught:
        require_budget(plan, recipe=asked)
    message = str(caught.value)
    assert f"store.byte_budget is {budget:,}; table 'targets'" in message
    words = shlex.split(message.partition("What would fit: ")[2].partition(";")[0])
    assert [word for word in words if word != "--set"] == options
    smaller = recipe(*overrides, f"store.byte_budget={budget}", *options)
    require_budget(plan_recipe(smaller, rows=rows), recipe=smaller)
    [limit] = re.findall(r"--limit (\d+)", message)
    require_budget(plan_recipe(asked, rows=int(limit)), recipe=asked)
    with pytest.raises(ConfigError):
        require_budget(plan_recipe(asked, rows=int(limit) + 1), recipe=asked)


def test_a_budget_no_setting_fits_offers_none() -> None:
    asked = recipe("store.byte_budget=1000")
    with pytest.raises(ConfigError, match=r"What would fit: a larger store\.byte_budget$"):
        require_budget(plan_recipe(asked, rows=1), recipe=asked)


def test_planning_loads_no_torch() -> None:
    code = "import sys, pipelines.plan; print({'torch', 'ray', 'transformers', 'mlflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
