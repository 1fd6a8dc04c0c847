"""Where the MLLM answers, the teacher reads its answer: the trained miniatures, whose answers end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch

from pipelines import RECIPES
from tests.features.made_rows import committed
from tests.stage_flow import Flow, new_store, one_thread
from x2i_platform.config import Recipe
from x2i_platform.errors import StoreError
from x2i_platform.features.codec import Blob, decode
from x2i_platform.features.reader import TextRow, read_table, read_text
from x2i_platform.features.schema import MLLM, TARGETS, TEXT, sample_id
from x2i_platform.mini.languages import caption
from x2i_platform.mini.training.corpus import training_scenes
from x2i_platform.precompute.draws import states_kind
from x2i_platform.precompute.stages import Stage, UnfitAnswer, build_stage
from x2i_platform.recipes import load, override

__all__ = ["one_thread"]
CAPTIONS = [caption(scene, seed=seed) for seed, scene in enumerate(islice(training_scenes(seed=3), 8))]
ENDLESS = "draw me anything you like at all"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load("mini", shipped=RECIPES, overrides=["targets.codec=bf16", "teacher.canvas=noise", "teacher.sigma=1.0"])


@pytest.fixture(scope="module")
def stages(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    store = new_store(tmp_path_factory.mktemp("stages") / "store", ["a"])
    return {table: build_stage(table, recipe=recipe, store_url=store.files.url) for table in (TEXT, MLLM, TARGETS)}


def flow_of(stages: dict[str, Stage], folder: Path, *, recipe: Recipe, captions: Sequence[str] = CAPTIONS) -> Flow:
    """The models of `stages` by another recipe."""
    flow = Flow(stages, new_store(folder / "store", captions))
    for stage in (flow.text, flow.mllm, flow.targets):
        stage.recipe = recipe
    return flow


def run(flow: Flow) -> None:
    for stage in (flow.mllm, flow.text, flow.targets):
        stage.run(0)


def test_the_teacher_of_an_answer_reads_it_and_that_of_a_prompt_reads_the_caption(
    stages: dict[str, Stage], recipe: Recipe, tmp_path: Path
) -> None:
    flow = flow_of(stages, tmp_path, recipe=recipe)
    run(flow)
    commits = {table: committed(flow.store, table, 0) for table in (TEXT, MLLM)}
    text = read_text(flow.store, commits[TEXT])
    rows = {row["sample_id"]: row for row in read_table(flow.store, commits[MLLM]).to_pylist()}
    kinds = {each: states_kind(sample_id(each), config=recipe.mllm) for each in CAPTIONS}
    assert set(kinds.values()) == {"prompt", "answer"}
    for each, kind in kinds.items():
        row = rows[sample_id(each)]
        (answer,) = flow.mllm.mllm.answers([each])
        assert row["caption"] == each
        assert row["answer"] == (answer.text if kind == "answer" else None)
        (states_CSH,) = flow.mllm.mllm.encode([each], states=kind)
        torch.testing.assert_close(flow.sample(each).states_CSH, states_CSH, rtol=1e-3, atol=1e-4)
        read = flow.text.encoders.encode([answer.text if kind == "answer" else each])
        found = text[sample_id(each)]
        torch.testing.assert_close(found.prompt_embeds_TE, read.prompt_embeds_BTE[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.pooled_P, read.pooled_BP[0], rtol=1e-4, atol=1e-4)


def test_targets_of_an_answer_are_those_of_its_text(stages: dict[str, Stage], recipe: Recipe, tmp_path: Path) -> None:
    answering = override(recipe, ["mllm.states=answer"])
    flow = flow_of(stages, tmp_path, recipe=answering, captions=CAPTIONS[:2])
    run(flow)
    (answer,) = flow.mllm.mllm.answers(CAPTIONS[:1])
    assert answer.text != CAPTIONS[0]
    read = flow.text.encoders.encode([answer.text])
    told = TextRow(read.prompt_embeds_BTE[0], read.pooled_BP[0])
    (rows,) = flow.targets.compute([{"sample_id": sample_id(CAPTIONS[0]), "text": told}])
    stored = flow.sample(CAPTIONS[0]).targets
    assert [row["tap"] for row in rows] == list(stored)
    for row in rows:
        values_TD = decode(Blob(row["dtype"], tuple(row["shape"]), row["codec"], row["data"]))
        torch.testing.assert_close(stored[row["tap"]].values_TD, values_TD, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["mllm.answer_tokens=3"], "UnfitAnswer: answer doesn't end within mllm.answer_tokens = 3: '"),
        (
            ["alignnet.padding=none", "train.warm_start_steps=0", "teacher.text_tokens=2"],
            "T5 tokens, teacher.text_tokens = 2 fit: '",
        ),
    ],
)
def test_an_answer_that_does_not_fit_is_quarantined_everywhere_and_its_neighbours_are_kept(
    stages: dict[str, Stage], recipe: Recipe, tmp_path: Path, settings: list[str], reason: str
) -> None:
    changed = override(recipe, settings)
    flow = flow_of(stages, tmp_path, recipe=changed)
    flow.mllm.mllm._config = changed.mllm
    try:
        run(flow)
    finally:
        flow.mllm.mllm._config = recipe.mllm
    answered = [each for each in CAPTIONS if states_kind(sample_id(each), config=recipe.mllm) == "answer"]
    kept = [sample_id(each) for each in CAPTIONS if each not in answered]
    assert [row["caption"] for row in flow.quarantined()] == answered
    assert all(reason in row["reason"] for row in flow.quarantined())
    assert flow.ids(TARGETS) == flow.ids(TEXT) == kept


def test_a_shard_whose_every_answer_is_unfit_is_committed_and_not_taken_for_a_broken_model(
    stages: dict[str, Stage], recipe: Recipe, tmp_path: Path
) -> None:
    changed = override(recipe, ["mllm.states=answer", "mllm.answer_tokens=3"])
    flow = flow_of(stages, tmp_path, recipe=changed, captions=CAPTIONS[:3])
    flow.mllm.mllm._config = changed.mllm
    try:
        run(flow)
    finally:
        flow.mllm.mllm._config = recipe.mllm
    assert len(flow.quarantined()) == 3
    assert flow.store.manifest().complete_shards() == [0]


def test_the_teacher_waits_for_the_answers(stages: dict[str, Stage], recipe: Recipe, tmp_path: Path) -> None:
    flow = flow_of(stages, tmp_path, recipe=recipe)
    with pytest.raises(StoreError, match="shard 0 of table 'mllm' must be committed before its text"):
        flow.text.run(0)


def test_an_answer_must_fit_the_positions_of_t5_alone(tmp_path: Path) -> None:
    """Stable Diffusion 3 reads CLIP's positions before T5's."""
    path = str(Path(__file__).parents[1] / "recipes" / "random-sd3.yaml")
    answering = load(path, shipped=RECIPES, overrides=["mllm.states=answer"])
    text = build_stage(TEXT, recipe=answering, store_url=new_store(tmp_path / "store", ["a"]).files.url)
    fits, long = ({"sample_id": "a", "caption": "a", "answer": "circle " * count} for count in (5, 60))
    assert len(text.compute([fits])) == 1
    with pytest.raises(UnfitAnswer, match=r"T5 tokens, teacher\.text_tokens - teacher\.clip_tokens = 51 fit: '"):
        text.compute([fits, long])
