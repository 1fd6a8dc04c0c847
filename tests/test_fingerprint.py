"""A fingerprint changes with every setting that enters the numbers, and with nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipelines import RECIPES
from tests.random_models import RANDOM
from x2i_platform import fingerprint
from x2i_platform.config import Recipe
from x2i_platform.digests import differences
from x2i_platform.models.weights import locate
from x2i_platform.recipes import load, override

CHANGES: dict[str, tuple[Any, set[str]]] = {
    # Field of a recipe: another value, and the feature tables whose numbers it enters.
    "name": ("other", set()),
    "description": ("other", set()),
    "teacher.dtype": ("bfloat16", {"text", "targets"}),
    "teacher.text_tokens": (256, {"text", "targets"}),
    "teacher.clip_tokens": (32, {"text", "targets"}),
    "teacher.resolution": (128, {"targets"}),
    "teacher.guidance": (1.0, {"targets"}),
    "teacher.sigma": ([0.5], {"targets"}),
    "teacher.canvas": ("estimate", {"targets"}),
    "mllm.dtype": ("bfloat16", {"mllm"}),
    "mllm.max_tokens": (64, {"mllm"}),
    "mllm.max_media_tokens": (64, set()),
    "mllm.answer_tokens": (8, set()),
    "mllm.states": ("mixed", {"text", "mllm", "targets"}),
    "mllm.template": ("draw {caption}", {"mllm"}),
    "media": ({"image_side": 64, "video_fps": 2.0, "video_frames": 4}, set()),
    "alignnet.fusion": ("mean", set()),
    "alignnet.t5_layers": (2, set()),
    "alignnet.t5_heads": (2, set()),
    "alignnet.t5_head_dim": (8, set()),
    "alignnet.padding": ("none", set()),
    "alignnet.init_seed": (1, set()),
    "targets.taps": ("double", {"targets"}),
    "targets.image_tokens": (3, {"targets"}),
    "targets.text_tokens": (3, {"targets"}),
    "targets.codec": ("bf16", {"targets"}),
    "targets.seed": (1, {"targets"}),
    "store": ({"samples_per_shard": 1, "byte_budget": 1, "max_quarantine_share": 1}, set()),
    "train.steps": (5, set()),
    "generate": ({"num_inference_steps": 1, "guidance": 1, "width": 16, "height": 16}, set()),
    "run": (
        {
            **{pool: {"actors": 3, "batch_size": 5, "num_cpus": 0.1} for pool in ("text", "mllm", "targets")},
            "train": {"workers": 2, "strategy": "zero3", "checkpoint_every": 1, "loader_workers": 1},
        },
        set(),
    ),
}
MODELS = {"teacher.model", "teacher.revision", "mllm.model", "mllm.revision"}


@pytest.fixture(scope="module")
def mini() -> Recipe:
    return load(RANDOM, shipped=RECIPES)


def changed_tables(recipe: Recipe, other: Recipe) -> set[str]:
    before, after = fingerprint.features(recipe), fingerprint.features(other)
    return {table for table in before if before[table] != after[table]}


def with_value(recipe: Recipe, field: str, value: Any) -> Recipe:
    changed = override(recipe, [f"{field}={json.dumps(value)}"])
    assert changed != recipe, "the table above must hold another value than the recipe"
    return changed


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_changes_the_tables_whose_numbers_it_enters(mini: Recipe, field: str) -> None:
    value, tables = CHANGES[field]
    assert changed_tables(mini, with_value(mini, field, value)) == tables


def test_no_field_is_forgotten(mini: Recipe) -> None:
    for section in ("teacher", "mllm", "alignnet", "targets"):
        part: BaseModel = getattr(mini, section)
        named = {field for field in CHANGES | dict.fromkeys(MODELS) if field.startswith(f"{section}.")}
        assert named == {f"{section}.{field}" for field in type(part).model_fields}
    assert {field.partition(".")[0] for field in CHANGES} == set(Recipe.model_fields)


def test_reference_padding_changes_what_the_mllm_table_holds_and_no_other(mini: Recipe) -> None:
    padded = override(mini, ["alignnet.padding=reference"])
    assert changed_tables(mini, padded) == {"mllm"}
    # Then, and only then, the length padded to enters the MLLM's numbers too.
    assert changed_tables(padded, override(padded, ["teacher.text_tokens=256"])) == {"text", "mllm", "targets"}


def test_the_length_of_answers_counts_once_there_are_answers(mini: Recipe) -> None:
    answering = override(mini, ["mllm.states=answer"])
    shorter = override(answering, ["mllm.answer_tokens=8"])
    assert changed_tables(answering, shorter) == {"text", "mllm", "targets"}, "the teacher reads the answers"


def test_weights_count_by_content_and_not_by_place(mini: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(locate(mini.mllm.model), folder)
    moved = override(mini, [f"mllm.model={folder}", "mllm.revision=main"])
    assert changed_tables(mini, moved) == set()
    weights = next(folder.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert changed_tables(mini, moved) == {"mllm"}


def test_a_training_is_its_data_alignnet_and_settings(mini: Recipe) -> None:
    def of(recipe: Recipe, *, manifest: str = "m", store: dict[str, Any] | None = None) -> dict[str, Any]:
        return fingerprint.training(recipe, manifest_digest=manifest, store_fingerprint=store or {"text": {}})

    base = of(mini)
    for field, (value, _) in CHANGES.items():
        counts = field.startswith(("alignnet.", "train."))
        assert (of(with_value(mini, field, value)) != base) is counts, field
    assert of(mini, manifest="other") != base
    assert of(mini, store={"text": {"teacher": "other"}}) != base
    warm = {"warm_start_steps", "warm_start_lr"}
    assert set(base["train"]) == set(type(mini.train).model_fields) - warm, "without one, as before there was one"
    assert set(of(with_value(mini, "train.warm_start_steps", 5))["train"]) == set(type(mini.train).model_fields)


def test_an_image_depends_on_the_models_and_how_they_are_asked(mini: Recipe) -> None:
    base = fingerprint.generation(mini)
    for field, (value, _) in CHANGES.items():
        counts = field.startswith(("teacher.", "mllm.")) or field in ("alignnet.padding", "media")
        assert (fingerprint.generation(with_value(mini, field, value)) != base) is counts, field


def test_a_fingerprint_survives_json_and_differences_are_named(mini: Recipe) -> None:
    chosen = override(mini, ["targets.taps=[double.0.image, single.0]", "teacher.guidance=3.3333333333333335"])
    features = fingerprint.features(chosen)
    stored = json.loads(json.dumps(features))
    assert differences(features, stored, where="in the store") == []
    asked = fingerprint.features(override(chosen, ["targets.codec=bf16", "teacher.text_tokens=256"]))
    assert differences(asked, stored, where="in the store") == [
        "targets.canvas.text_tokens: 128 in the store, 256 asked for",
        "targets.codec: 'int8' in the store, 'bf16' asked for",
        "text.text_tokens: 128 in the store, 256 asked for",
    ]
