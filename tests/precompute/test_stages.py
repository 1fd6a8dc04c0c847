"""The stages on real miniature models: what they store is what the models give, and a bad row costs only itself."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.stage_flow import CAPTIONS, Flow, flow, new_store, one_thread, recipe, stages
from x2i_platform.config import Recipe
from x2i_platform.errors import InputError, StoreError
from x2i_platform.features.reader import read_text
from x2i_platform.features.schema import MLLM, SAMPLES, TARGETS, TEXT, sample_id
from x2i_platform.precompute.stages import MLLMStage, Stage, build_stage
from x2i_platform.recipes import override

__all__ = ["flow", "one_thread", "recipe", "stages"]
BLOB = pa.large_binary()


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


def test_a_lone_sample_that_fails_stops_a_broken_model_and_not_a_sound_one(
    stages: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path / "store", CAPTIONS[:2], size=1)
    flow = Flow(stages, store)
    broken = spoilt(flow.text.encoders._pipeline.text_encoder_2.get_input_embeddings().weight, slice(None))
    with broken, pytest.raises(InputError, match=r"table 'text', shard 1: all 1 samples failed, .* is not finite"):
        flow.text.run(1)
    assert store.commit_of(TEXT, 1) is None
    compute = flow.text.compute

    def fail_on_the_second(samples: Sequence[Any]) -> list[Any]:
        if samples[0]["caption"] == CAPTIONS[1]:
            raise InputError("a caption that nothing can be made of")
        return compute(samples)

    monkeypatch.setattr(flow.text, "compute", fail_on_the_second)
    assert flow.text.run(1)
    assert [row["reason"] for row in flow.quarantined()] == ["InputError: a caption that nothing can be made of"]


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


def test_a_prompt_that_the_teacher_has_no_room_for_is_asked_but_not_learnt_from(recipe: Recipe, flow: Flow) -> None:
    flow.mllm.recipe = override(recipe, ["teacher.text_tokens=12"])
    longer = [caption for caption in CAPTIONS if len(flow.mllm.mllm.tokenize([caption])[0]) > 12]
    flow.mllm.run(0)
    assert 0 < len(longer) == len(flow.quarantined())
    assert all("at most teacher.text_tokens = 12 can be learnt from" in row["reason"] for row in flow.quarantined())
    flow.mllm.recipe = override(flow.mllm.recipe, ["alignnet.padding=none"])
    assert len(flow.mllm.compute([{"sample_id": "a", "caption": longer[0]}])) == 1, "without padding there is room"


def test_a_store_of_prompt_states_is_byte_for_byte_what_it_was_before_there_were_answers(flow: Flow) -> None:
    flow.run()
    tensor = [("dtype", pa.string()), ("shape", pa.list_(pa.int32())), ("codec", pa.string()), ("data", BLOB)]
    places = [("seed", pa.int64()), ("text_idx", pa.list_(pa.int32())), ("image_idx", pa.list_(pa.int32()))]
    columns = {
        TEXT: [("sample_id", pa.string()), *tensor, ("pooled", BLOB)],
        MLLM: [("sample_id", pa.string()), ("num_tokens", pa.int32()), *tensor],
        TARGETS: [("sample_id", pa.string()), ("tap", pa.string()), ("tap_idx", pa.int16()), *places, *tensor],
    }
    for stage in (flow.text, flow.mllm, flow.targets):
        fields = [pa.field(name, kind, nullable=False) for name, kind in columns[stage.table]]
        schema = pa.schema([*fields, *([pa.field("scale", BLOB)] if stage.table == TARGETS else [])])
        samples, made = stage.inputs(0), []
        for start in range(0, len(samples), stage.batch_size):
            made += [row for rows in stage.compute(samples[start : start + stage.batch_size]) for row in rows]
        buffer = io.BytesIO()
        with pq.ParquetWriter(
            buffer,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[name for name in schema.names if name in ("tap", "dtype", "codec", "sample_id")],
            write_statistics=[name for name in schema.names if name not in ("data", "pooled", "scale")],
            write_page_checksum=True,
        ) as writer:
            writer.write_table(pa.Table.from_pylist(made, schema=schema))
        commit = flow.store.commit_of(stage.table, 0)
        assert commit
        assert flow.store.files.read(commit.file) == buffer.getvalue(), stage.table
