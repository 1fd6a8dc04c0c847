"""The way from a version back to the captions, read from a real MLflow registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.registered import registered
from x2i_platform.config import Recipe
from x2i_platform.errors import RegistryError
from x2i_platform.registry.card import TrainingFacts, model_card
from x2i_platform.registry.evaluations import record_gate
from x2i_platform.registry.lineage import MAX_SOURCES, UNKNOWN, card_of, folder_sheet, sheet, version_tags
from x2i_platform.registry.models import register
from x2i_platform.registry.promotion import promote
from x2i_platform.registry.tracking import RunInfo, RunLogger, TrainingData, start_or_resume

FACTS = TrainingFacts(
    teacher_identity="aa" * 32,
    mllm_identity="bb" * 32,
    manifest_digest="cc" * 32,
    captions=90,
    sources={"/private/captions.txt": 70, "s3://bucket/captions.txt": 10, "more.jsonl": 20},
)


def trained(uri: str, folder: Path, recipe: Recipe) -> RunInfo:
    """A version as training leaves it."""
    info = start_or_resume(
        tracking_uri=uri,
        experiment="x2i-distill",
        run_name="mini-0123",
        key="fingerprint",
        params={"train_samples": 90, "held_out_samples": 10},
        tags={},
        data=TrainingData("store", FACTS.manifest_digest, "s3://me:secret@bucket/store"),
    )
    with RunLogger(info, sample_every_s=1000) as log:
        log.metrics({"kl_per_token": 0.5, "lr": 0.1, "evaluation/english/seen/prompt/accuracy": 0.75}, step=1)
    card = model_card(recipe, name="mini", fingerprint="fingerprint", facts=FACTS)
    tags = version_tags(FACTS)
    register(folder, name="mini", info=info, manifest_digest=FACTS.manifest_digest, card=card, tags=tags)
    return info


def test_a_version_leads_back_to_its_captions(tracking_uri: str, model_folder: Path, mini_recipe: Recipe) -> None:
    info = trained(tracking_uri, model_folder, mini_recipe)
    record_gate("models:/mini/1", holds=True, reason="+1 point", tracking_uri=tracking_uri)
    found = sheet("models:/mini@champion", tracking_uri=tracking_uri)
    assert (found.model, found.aliases) == ("models:/mini/1", ("candidate", "champion"))
    assert (found.gate, found.gate_reason, found.forced) == ("passed", "+1 point", None)
    assert (found.teacher.model, found.teacher.identity) == (mini_recipe.teacher.model, FACTS.teacher_identity)
    assert (found.mllm.model, found.mllm.identity) == (mini_recipe.mllm.model, FACTS.mllm_identity)
    lineage = found.lineage
    assert (lineage.run, lineage.run_name, lineage.experiment) == (info.run_id, "mini-0123", "x2i-distill")
    assert (lineage.training_fingerprint, lineage.store_manifest) == ("fingerprint", FACTS.manifest_digest)
    assert lineage.store == "s3://***@bucket/store"
    assert (lineage.captions.trained_on, lineage.captions.held_out) == ("90", "10")
    assert lineage.captions.files == {"captions.txt": 80, "more.jsonl": 20}
    assert found.metrics["lr"] == 0.1
    assert set(found.main_metrics()) == {"kl_per_token", "evaluation/english/seen/prompt/accuracy"}
    card = card_of("mini", tracking_uri=tracking_uri)
    assert card is not None
    assert FACTS.teacher_identity in card
    assert "/private" not in card


def test_what_an_older_version_lacks_is_unknown(tracking_uri: str, tmp_path: Path) -> None:
    info = registered(tracking_uri, tmp_path / "old")
    promote("models:/mini/1", force=True, tracking_uri=tracking_uri)
    found = sheet("mini", tracking_uri=tracking_uri)
    assert (found.gate, found.gate_reason, found.forced) == ("none", None, "champion")
    assert found.teacher.model == found.mllm.identity == UNKNOWN
    assert (found.lineage.run, found.lineage.store, found.lineage.store_manifest) == (info.run_id, UNKNOWN, "abc")
    assert found.lineage.captions.trained_on == found.lineage.captions.files == UNKNOWN
    client = MlflowClient(tracking_uri)
    client.create_model_version("mini", source=str(tmp_path / "old"))
    foreign = sheet("models:/mini/2", tracking_uri=tracking_uri)
    assert foreign.lineage.run == foreign.lineage.run_name == foreign.content == UNKNOWN
    assert card_of("models:/mini/2", tracking_uri=tracking_uri) is None


def test_a_name_alone_is_its_champion_or_else_its_candidate(tracking_uri: str, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        registered(tracking_uri, tmp_path / str(number), value=number)
    client = MlflowClient(tracking_uri)
    client.set_registered_model_alias("mini", "candidate", "2")

    def chosen() -> str:
        return sheet("models:/mini", tracking_uri=tracking_uri).model

    assert chosen() == "models:/mini/2"
    record_gate("models:/mini/1", holds=True, reason="", tracking_uri=tracking_uri)
    assert chosen() == "models:/mini/1"
    for alias in ("candidate", "champion"):
        client.delete_registered_model_alias("mini", alias)
    assert chosen() == "models:/mini/3"


def test_a_folder_says_what_its_recipe_says(model_folder: Path, mini_recipe: Recipe) -> None:
    found = folder_sheet("here", folder=model_folder)
    assert (found.model, found.teacher.model, found.lineage.run) == ("here", mini_recipe.teacher.model, UNKNOWN)
    assert len(found.content) == 64


def test_thousands_of_files_are_a_few_names_and_a_count() -> None:
    sources = {f"folder/{number}.txt": 1 + (number == 5) for number in range(1000)}
    facts = TrainingFacts("", "", "", 1001, sources=sources)
    files = json.loads(version_tags(facts)["x2i.caption_files"])
    assert len(files) == MAX_SOURCES + 1
    assert next(iter(files)) == "5.txt"
    assert files["980 more"] == 980
    assert sum(files.values()) == 1001


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/mini@champion", "no alias 'champion'"),
        ("mimi", "did you mean 'mini'"),
        ("models:/mini/new", "malformed; use models:/NAME@ALIAS"),
    ],
)
def test_what_is_not_there_is_one_clear_line(tracking_uri: str, tmp_path: Path, model: str, message: str) -> None:
    registered(tracking_uri, tmp_path / "final")
    with pytest.raises(RegistryError, match=message) as caught:
        sheet(model, tracking_uri=tracking_uri)
    assert "\n" not in str(caught.value)
