"""The stages on real miniature models: what they store is what the models give, and a bad row costs only itself."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from pipelines import RECIPES
from x2i_platform.captions import Record
from x2i_platform.config import Recipe, TargetsConfig
from x2i_platform.errors import InputError, StoreError
from x2i_platform.features.planning import plan_shards
from x2i_platform.features.reader import Sample, ShardReader, read_table, read_text
from x2i_platform.features.schema import MLLM, SAMPLES, TARGETS, TEXT, sample_id
from x2i_platform.features.store import FeatureStore
from x2i_platform.mini import captions_path
from x2i_platform.recipes import load, override
from x2i_platform.stages import MLLMStage, Stage, TargetsStage, TextStage, build_stage, draw_tokens

CAPTIONS = captions_path().read_text(encoding="utf-8").splitlines()[:6]
AnyStage = TypeVar("AnyStage", bound=Stage)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    settings = ["teacher.text_tokens=48", "mllm.max_tokens=48"]
    settings += ["targets.codec=bf16", "targets.image_tokens=7", "targets.text_tokens=5"]
    return load("mini", shipped=RECIPES, overrides=settings)


def new_store(folder: Path, captions: Sequence[str], *, size: int = 16) -> FeatureStore:
    store = FeatureStore.create(str(folder), fingerprint={})
    records = [Record("c.txt", line, caption) for line, caption in enumerate(captions, 1)]
    plan_shards(store, records, samples_per_shard=size)
    return store


@pytest.fixture(scope="module")
def stages(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """Each with its model; tests use copies that have another store."""
    store = new_store(tmp_path_factory.mktemp("stages") / "store", ["a"])
    return {table: build_stage(table, recipe=recipe, store_url=store.files.url) for table in (TEXT, MLLM, TARGETS)}


class Flow:
    """The three stages over one store."""

    def __init__(self, stages: dict[str, Stage], store: FeatureStore, *, batch_size: int = 4) -> None:
        self.store = store
        self.text = self._over(stages[TEXT], TextStage, batch_size)
        self.mllm = self._over(stages[MLLM], MLLMStage, batch_size)
        self.targets = self._over(stages[TARGETS], TargetsStage, batch_size)

    def _over(self, stage: Stage, kind: type[AnyStage], batch_size: int) -> AnyStage:
        mine = copy.copy(stage)
        assert isinstance(mine, kind)
        mine.store, mine.batch_size = self.store, batch_size
        return mine

    def run(self, shard: int = 0) -> list[bool]:
        return [stage.run(shard) for stage in (self.text, self.mllm, self.targets)]

    def ids(self, table: str, shard: int = 0) -> list[str]:
        commit = self.store.commit_of(table, shard)
        assert commit
        return list(dict.fromkeys(read_table(self.store, commit).column("sample_id").to_pylist()))

    def sample(self, caption: str, shard: int = 0) -> Sample:
        mllm, targets = self.store.commit_of(MLLM, shard), self.store.commit_of(TARGETS, shard)
        assert mllm
        assert targets
        return ShardReader(self.store, mllm=mllm, targets=targets).sample(sample_id(caption))

    def quarantined(self) -> list[dict[str, Any]]:
        files = sorted((Path(self.store.files.url) / "quarantine").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def flow(stages: dict[str, Stage], tmp_path: Path) -> Flow:
    return Flow(stages, new_store(tmp_path / "store", CAPTIONS))


def ids_of(captions: Sequence[str]) -> list[str]:
    return [sample_id(caption) for caption in captions]


def test_every_stage_stores_every_sample_and_the_second_run_computes_nothing(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flow.run() == [True, True, True]
    for table in (TEXT, MLLM, TARGETS):
        assert flow.ids(table) == ids_of(CAPTIONS)
    commits = flow.store.commits()
    assert flow.store.manifest().complete_shards() == [0]
    for stage in (flow.text, flow.mllm, flow.targets):
        monkeypatch.setattr(stage, "compute", lambda samples: pytest.fail("computed again"))
    assert flow.run() == [False, False, False]
    assert flow.store.commits() == commits


def test_text_and_states_are_what_the_models_give_for_the_caption_alone(flow: Flow) -> None:
    flow.run()
    commit = flow.store.commit_of(TEXT, 0)
    assert commit
    text = read_text(flow.store, commit)
    for caption in CAPTIONS:
        alone = flow.text.encoders.encode([caption])
        found = text[sample_id(caption)]
        assert found.prompt_embeds_TE.shape == (48, flow.targets.teacher.joint_dim)
        torch.testing.assert_close(found.prompt_embeds_TE, alone.prompt_embeds_BTE[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.pooled_P, alone.pooled_BP[0], rtol=1e-4, atol=1e-5)
        (states_CSH,) = flow.mllm.mllm.encode([caption])
        torch.testing.assert_close(flow.sample(caption).states_CSH, states_CSH, rtol=1e-4, atol=1e-5)


def attention_outputs(flow: Flow, caption: str, *, seed: int) -> dict[str, torch.Tensor]:
    """Outputs of every attention module for one caption, `(tokens, D)`, by hooks of our own."""
    dit, teacher, found = flow.targets.teacher.dit, flow.targets.teacher, {}
    handles = [
        block.attn.register_forward_hook(lambda _module, _args, out, i=i: found.update({i: out}))
        for i, block in enumerate([*dit.transformer_blocks, *dit.single_transformer_blocks])
    ]
    conditioning = flow.text.encoders.encode([caption])
    with torch.no_grad():
        teacher.forward(
            conditioning.prompt_embeds_BTE, pooled_BP=conditioning.pooled_BP, latents_BNC=teacher.noise([seed])
        )
    for handle in handles:
        handle.remove()
    outputs = {}
    for i, out in found.items():
        if i < len(dit.transformer_blocks):
            outputs[f"double.{i}.image"], outputs[f"double.{i}.text"] = out[0][0], out[1][0]
        else:
            outputs[f"single.{i - len(dit.transformer_blocks)}"] = out[0]
    return outputs


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_targets_are_the_z_scores_of_the_teachers_outputs_at_the_kept_tokens(
    flow: Flow, recipe: Recipe, codec: str
) -> None:
    flow.targets.recipe = override(recipe, [f"targets.codec={codec}"])
    flow.run()
    for caption in CAPTIONS[:3]:
        sample = flow.sample(caption)
        outputs = attention_outputs(flow, caption, seed=sample.seed)
        assert list(sample.targets) == list(flow.targets.teacher.tap_names)
        assert set(outputs) == set(sample.targets)
        for tap, target in sample.targets.items():
            if tap.startswith("single."):  # one stream, text tokens first
                kept = [*target.text_idx, *(48 + i for i in target.image_idx)]
            else:
                kept = list(target.image_idx if tap.endswith(".image") else target.text_idx)
            assert len(kept) == (12 if tap.startswith("single.") else 7 if tap.endswith(".image") else 5)
            values_TD = outputs[tap][kept].double()
            z_TD = (values_TD - values_TD.mean(-1, keepdim=True)) / (values_TD.std(-1, keepdim=True) + 1e-7)
            error_TD = (target.values_TD.double() - z_TD).abs()
            step = 2**-8 * z_TD.abs() if codec == "bf16" else 0.51 * z_TD.abs().amax(0) / 127
            assert (error_TD <= step + 1e-4).all(), tap


def test_with_all_tokens_kept_every_token_is_there_once(flow: Flow, recipe: Recipe) -> None:
    flow.targets.recipe = override(recipe, ["targets.image_tokens=all", "targets.text_tokens=9999"])
    flow.targets.taps = ("double.0.image", "double.0.text", "single.1")
    flow.run()
    image, text, joint = flow.sample(CAPTIONS[0]).targets.values()
    tokens = flow.targets.teacher.num_image_tokens
    assert (image.text_idx, image.image_idx) == ((), tuple(range(tokens)))
    assert (text.text_idx, text.image_idx) == (tuple(range(48)), ())
    assert (joint.text_idx, joint.image_idx) == (tuple(range(48)), tuple(range(tokens)))
    assert joint.values_TD.shape[0] == 48 + tokens


def test_what_is_computed_depends_on_the_caption_alone(
    stages: dict[str, Stage], tmp_path: Path, recipe: Recipe
) -> None:
    """Another order, other neighbours, another batch size, another shard: the same noise, tokens and numbers."""
    whole = Flow(stages, new_store(tmp_path / "whole", CAPTIONS))
    whole.run()
    other = Flow(stages, new_store(tmp_path / "other", [*reversed(CAPTIONS), "a photo"], size=3), batch_size=2)
    for shard in range(3):
        other.run(shard)
    for position, caption in enumerate(reversed(CAPTIONS)):
        one, two = whole.sample(caption), other.sample(caption, shard=position // 3)
        assert one.seed == two.seed
        torch.testing.assert_close(one.states_CSH, two.states_CSH, rtol=1e-4, atol=1e-5)
        for tap, target in one.targets.items():
            assert (target.text_idx, target.image_idx) == (two.targets[tap].text_idx, two.targets[tap].image_idx)
            # One bf16 step, where rounding of the last bits falls on either side.
            torch.testing.assert_close(target.values_TD, two.targets[tap].values_TD, rtol=2**-7, atol=1e-4)
    assert len({whole.sample(caption).seed for caption in CAPTIONS}) == len(CAPTIONS)


def test_tokens_are_drawn_uniformly_without_replacement_and_by_sample_and_seed() -> None:
    config, drawn = TargetsConfig(image_tokens=6, text_tokens=3, seed=1), Counter()
    for number in range(1500):
        text, image = draw_tokens(sample_id(str(number)), config=config, num_text=10, num_image=16)
        assert text.tolist() == sorted(set(text.tolist()))
        assert image.tolist() == sorted(set(image.tolist()))
        assert (len(text), len(image)) == (3, 6)
        drawn.update(("text", i) for i in text.tolist())
        drawn.update(("image", i) for i in image.tolist())
    assert set(drawn) == {*(("text", i) for i in range(10)), *(("image", i) for i in range(16))}
    # 1500 x 3/10 and 1500 x 6/16, each within five standard deviations.
    assert all(abs(count - (450 if kind == "text" else 562.5)) < 5 * 19 for (kind, _), count in drawn.items())

    def draw(sample: str, seed: int) -> list[list[int]]:
        chosen = TargetsConfig(image_tokens=20, text_tokens=20, seed=seed)
        return [part.tolist() for part in draw_tokens(sample, config=chosen, num_text=100, num_image=100)]

    assert draw("a", 0) == draw("a", 0)
    assert len({str(draw(sample, seed)) for sample in "abc" for seed in range(3)}) == 9
    text, image = draw("a", 0)
    assert text != image, "two draws, not one"


def test_a_prompt_above_the_limit_is_quarantined_and_its_neighbours_kept(
    stages: dict[str, Stage], tmp_path: Path
) -> None:
    captions = [*CAPTIONS[:2], "a very small " * 40 + "circle", *CAPTIONS[2:]]
    flow, clean = (
        Flow(stages, new_store(tmp_path / name, lines)) for name, lines in (("a", captions), ("b", CAPTIONS))
    )
    flow.run()
    clean.run()
    assert flow.ids(MLLM) == ids_of(CAPTIONS)
    assert flow.ids(TARGETS) == flow.ids(TEXT) == ids_of(captions)
    (row,) = flow.quarantined()
    assert (row["table"], row["source"], row["line"], row["caption"]) == (MLLM, "c.txt", 3, captions[2])
    assert row["reason"].startswith("PromptTooLong: prompt of ")
    assert "at most 48 fit" in row["reason"]
    commit = flow.store.commit_of(MLLM, 0)
    assert commit
    assert commit.quarantined == (sample_id(captions[2]),)
    assert flow.store.manifest().complete_shards() == [0]
    for caption in CAPTIONS:
        states = (flow.sample(caption).states_CSH, clean.sample(caption).states_CSH)
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)
    assert flow.mllm.run(0) is False, "a shard with a quarantined row is done"


@contextmanager
def spoilt(weight: torch.Tensor, rows: Any) -> Iterator[None]:
    """Rows of a weight that are not a number, as a damaged file or a flipped bit leaves them."""
    whole = weight.detach()[rows].clone()
    with torch.no_grad():
        weight[rows] = float("nan")
        try:
            yield
        finally:
            weight[rows] = whole


def test_a_caption_on_which_the_model_is_not_finite_is_quarantined_and_left_out_of_targets(
    stages: dict[str, Stage], tmp_path: Path
) -> None:
    bad = "zzz"
    captions = [*CAPTIONS[:3], f"a red {bad} circle", *CAPTIONS[3:]]
    flow = Flow(stages, new_store(tmp_path / "store", captions))
    pipeline = flow.text.encoders._pipeline
    used = {token for caption in CAPTIONS for token in pipeline.tokenizer_2(caption).input_ids}
    own = sorted(set(pipeline.tokenizer_2(captions[3]).input_ids) - used - set(pipeline.tokenizer_2.all_special_ids))
    assert own, "a token that no other caption has"
    with spoilt(pipeline.text_encoder_2.get_input_embeddings().weight, own):
        assert flow.text.run(0)
    flow.mllm.run(0)
    flow.targets.run(0)
    assert flow.ids(TEXT) == flow.ids(TARGETS) == ids_of(CAPTIONS)
    assert flow.ids(MLLM) == ids_of(captions)
    (row,) = flow.quarantined()
    assert (row["table"], row["line"], row["reason"]) == (TEXT, 4, "InputError: T5 output is not finite")
    assert flow.store.manifest().quarantined() == {sample_id(captions[3])}
    for stage, weight in (
        (flow.mllm, flow.mllm.mllm.model.get_input_embeddings().weight),
        (flow.targets, flow.targets.teacher.dit.x_embedder.weight),
    ):
        (Path(flow.store.files.url) / f"commits/{stage.table}/000000.json").unlink()
        with (
            spoilt(weight, slice(None)),
            pytest.raises(InputError, match=r"samples failed, the last with .*not finite"),
        ):
            stage.run(0)


def test_a_shard_on_which_everything_fails_is_not_committed_empty(flow: Flow) -> None:
    with spoilt(flow.text.encoders._pipeline.text_encoder_2.get_input_embeddings().weight, slice(None)):
        message = r"table 'text', shard 0: all 6 samples failed, the last with InputError: T5 output is not finite"
        with pytest.raises(InputError, match=message):
            flow.text.run(0)
    assert flow.store.commit_of(TEXT, 0) is None
    assert flow.quarantined() == []
    assert flow.text.run(0), "on a sound model it is computed"


def test_a_shard_of_nothing_but_long_prompts_is_done(stages: dict[str, Stage], tmp_path: Path) -> None:
    captions = [f"{number} " + "very small " * 60 for number in range(3)]
    flow = Flow(stages, new_store(tmp_path / "store", captions))
    flow.run()
    assert flow.ids(MLLM) == []
    assert [row["line"] for row in flow.quarantined()] == [1, 2, 3]
    assert flow.run() == [False, False, False]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, OSError, StoreError, TypeError])
def test_an_error_that_is_no_rows_fault_stops_the_shard_and_quarantines_nothing(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    calls = []

    def compute(samples: Sequence[Any]) -> list[Any]:
        calls.append(len(samples))
        raise error("no")

    monkeypatch.setattr(flow.mllm, "compute", compute)
    with pytest.raises(error):
        flow.mllm.run(0)
    assert calls == [4]
    assert flow.store.commit_of(MLLM, 0) is None
    assert flow.quarantined() == []


def test_stages_wait_for_what_they_need(flow: Flow) -> None:
    with pytest.raises(StoreError, match="shard 0 of table 'text' must be committed before its targets"):
        flow.targets.run(0)
    with pytest.raises(StoreError, match="shard 5 is not planned"):
        flow.text.run(5)
    flow.text.run(0)
    commit = flow.store.commit_of(TEXT, 0)
    assert commit
    Path(flow.store.files.path(commit.file)).unlink()
    with pytest.raises(StoreError, match=rf"{commit.file}': it is gone; delete 'commits/text/000000.json'"):
        flow.targets.run(0)
    assert [c.table for c in flow.store.commits()] == [SAMPLES, TEXT]


def test_reference_padding_stores_the_padded_positions_too(flow: Flow) -> None:
    flow.mllm.pad_to = 48
    flow.mllm.run(0)
    flow.text.run(0)
    flow.targets.run(0)
    states_CSH = flow.sample(CAPTIONS[0]).states_CSH
    (padded_CSH,) = flow.mllm.mllm.encode([CAPTIONS[0]], pad_to=48)
    assert states_CSH.shape[1] == 48
    torch.testing.assert_close(states_CSH, padded_CSH, rtol=1e-3, atol=1e-4)


def test_a_recipe_with_reference_padding_pads(recipe: Recipe, flow: Flow) -> None:
    padded = override(recipe, ["alignnet.padding=reference"])
    stage = build_stage(MLLM, recipe=padded, store_url=flow.store.files.url)
    assert isinstance(stage, MLLMStage)
    assert (stage.pad_to, flow.mllm.pad_to) == (48, None)
