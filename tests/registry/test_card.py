"""Cards tell where a model comes from, in Markdown that hubs read, and no path of the machine."""

from __future__ import annotations

import yaml

from x2i_platform.config import AlignNetConfig, MLLMConfig, Recipe, TeacherConfig
from x2i_platform.registry.card import TrainingFacts, imported_card, model_card


def test_the_card_has_front_matter_and_shows_no_local_path() -> None:
    recipe = Recipe(
        name="r",
        teacher=TeacherConfig(model="black-forest-labs/FLUX.1-dev"),
        mllm=MLLMConfig(model="/home/someone/models/qwen"),
    )
    facts = TrainingFacts(
        teacher_identity="black-forest-labs/FLUX.1-dev@0ef5fff",
        mllm_identity="sha256:1234",
        manifest_digest="5" * 64,
        captions=100_000,
        figures={"steps": 100, "host | rack": "a"},
        metrics={"validation/kl": 0.123456789},
    )
    card = model_card(recipe, name="my-model", fingerprint="f00d", facts=facts)
    _, front, body = card.split("---\n", 2)
    keys = yaml.safe_load(front)
    assert keys["license"] == "other"
    assert keys["base_model"] == ["black-forest-labs/FLUX.1-dev"]
    assert keys["pipeline_tag"] == "text-to-image"
    assert "someone" not in card
    wanted = (
        "sha256:1234",
        "5" * 64,
        "100,000 captions",
        "models:/my-model@candidate",
        "| validation/kl | 0.123457 |",
        r"host \| rack",
        "FLUX.1 [dev] Non-Commercial License",
        "f00d",
        recipe.mllm.template,
    )
    assert [text for text in wanted if text not in body] == []


def test_the_card_of_an_import_says_so_and_tells_nothing_of_a_training() -> None:
    recipe = Recipe(
        name="r",
        teacher=TeacherConfig(model="black-forest-labs/FLUX.1-schnell"),
        mllm=MLLMConfig(model="Qwen/Qwen2.5-VL-7B-Instruct"),
        alignnet=AlignNetConfig(fusion="scale"),
    )
    facts = TrainingFacts("black-forest-labs/FLUX.1-schnell@1", "Qwen/Qwen2.5-VL-7B-Instruct@2", "", captions=0)
    card = imported_card(recipe, name="theirs", source="released.bin", facts=facts)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert "license_name" not in yaml.safe_load(front)
    assert "imported from `released.bin`" in body
    assert "Fusion scale" in body
    assert not {"## Training", "## Recipe", "## Limits"} & set(body.splitlines())


def test_the_card_tells_the_noise_levels() -> None:
    teacher = TeacherConfig(model="mini:flux", sigma=(1.0, 0.5))
    recipe = Recipe(name="r", teacher=teacher, mllm=MLLMConfig(model="mini:qwen2.5-vl"))
    facts = TrainingFacts("a", "b", "c", captions=1)
    assert "trained at 2 noise levels" in model_card(recipe, name="m", fingerprint="f", facts=facts)
