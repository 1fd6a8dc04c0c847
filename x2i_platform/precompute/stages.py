"""The three stages of precompute: each holds one frozen model and turns a planned shard into a committed one.

    samples ──► mllm
       └──────► text ──► targets

With `mllm.states` other than `prompt` the three run one after another: if a sample's states are those of the MLLM's
answer, its teacher reads that answer in place of the caption.

A stage is given a shard's number; tensors go straight from the model to the store. It runs without Ray, too.

Invariants: a shard that is committed is not computed again; a row that fails is quarantined with its reason and its
neighbours are kept; what is computed for a caption depends on the caption and the recipe alone.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from x2i_platform.config import Recipe
from x2i_platform.errors import InputError, StoreError, X2IError, shown
from x2i_platform.features.codec import TARGET_ENCODERS, encode_raw
from x2i_platform.features.reader import read_answers, read_samples, read_text
from x2i_platform.features.schema import MLLM, SAMPLES, TARGETS, TEXT, Row, sample_seed
from x2i_platform.features.store import Commit, FeatureStore
from x2i_platform.features.writer import ShardWriter, open_shard, tensor_columns
from x2i_platform.models import mllm
from x2i_platform.models.devices import NOT_A_ROWS_FAULT, choose_device
from x2i_platform.models.taps import Tap, attention_taps, select_taps
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.precompute.draws import draw_tokens, states_kind

log = logging.getLogger(__name__)

STOPS_THE_SHARD = (*NOT_A_ROWS_FAULT, torch.OutOfMemoryError)
"""Errors that stop a shard instead of emptying it into quarantine. All rows have one size, so memory is no row's
fault either."""


class UnfitAnswer(InputError):  # noqa: N818
    """An answer of the MLLM that can't replace its caption."""


SAMPLES_OWN_FAULT = (mllm.PromptTooLong, UnfitAnswer)
"""Errors that are the sample's own fault, even if every sample of a shard has one."""


class Stage(ABC):
    """A frozen model, and the table that it fills."""

    table: str
    optional_columns = False
    """Whether the recipe asks for the table's optional columns."""

    def __init__(self, recipe: Recipe, *, store: FeatureStore, batch_size: int, device: str) -> None:
        self.recipe, self.store, self.batch_size, self.device = recipe, store, batch_size, device

    @abstractmethod
    def compute(self, samples: Sequence[Row]) -> list[list[Row]]:
        """The table's rows for each of some samples."""

    def inputs(self, shard: int) -> list[Row]:
        """The samples of a shard, with everything that this stage reads for each."""
        commit = self.store.commit_of(SAMPLES, shard)
        if commit is None:
            raise StoreError(f"shard {shard} is not planned in '{self.store.files.url}'")
        return read_samples(self.store, commit)

    def commit_before(self, table: str, shard: int) -> Commit:
        """The shard's commit in a table that this stage builds on."""
        commit = self.store.commit_of(table, shard)
        if commit is None:
            raise StoreError(f"shard {shard} of table '{table}' must be committed before its {self.table}")
        return commit

    @torch.inference_mode()
    def run(self, shard: int) -> bool:
        """Compute and commit a shard; False if it was committed already.

        Raises InputError if every sample fails for a reason that isn't its own: then the model or the device is broken,
        and a shard that is committed empty would never be computed again. If a single sample fails, a neighbour is
        tried to find out whose fault it is.
        """
        if self.store.commit_of(self.table, shard) is not None:
            return False
        samples = self.inputs(shard)
        with open_shard(self.store, table=self.table, shard=shard, optional=self.optional_columns) as writer:
            failures: list[Exception] = []
            for start in range(0, len(samples), self.batch_size):
                failures += self._write_batch(writer, samples[start : start + self.batch_size])
            suspicious = len(failures) == len(samples) and not any(isinstance(e, SAMPLES_OWN_FAULT) for e in failures)
            if samples and suspicious and not (len(samples) == 1 and self._neighbour_succeeds(shard)):
                where, last = f"table '{self.table}', shard {shard}", failures[-1]
                raise InputError(f"{where}: all {len(samples)} samples failed, the last with {_reason(last)}") from last
            assert len(writer.ids) + len(writer.quarantined) == len(samples)
        return True

    def _neighbour_succeeds(self, shard: int) -> bool:
        for other in (shard - 1, shard + 1):
            with suppress(X2IError, ValueError, RuntimeError, IndexError):
                if samples := self.inputs(other)[:1]:
                    return bool(self.compute(samples))
        return False

    def _write_batch(self, writer: ShardWriter, samples: Sequence[Row]) -> list[Exception]:
        """Add the rows of some samples, and return the errors of those that were quarantined."""
        try:
            results = self.compute(samples)
        except STOPS_THE_SHARD:
            raise
        except (X2IError, ValueError, RuntimeError, IndexError) as error:
            if len(samples) == 1:
                sample, reason = samples[0], _reason(error)
                log.warning("%s: %s:%s quarantined: %s", self.table, sample["source"], sample["line"], reason)
                origin = {key: sample[key] for key in ("sample_id", "caption", "source", "line")}
                writer.quarantine(origin, reason=reason)
                return [error]
            return [failure for sample in samples for failure in self._write_batch(writer, [sample])]
        for rows in results:
            for row in rows:
                writer.add(row)
        return []


class TextStage(Stage):
    """Feeds captions, or the MLLM's answers to them, to T5 and CLIP."""

    table = TEXT

    def __init__(self, recipe: Recipe, *, store: FeatureStore, batch_size: int, device: str) -> None:
        super().__init__(recipe, store=store, batch_size=batch_size, device=device)
        self.encoders = TextEncoders.load(recipe.teacher, device=device)

    def inputs(self, shard: int) -> list[Row]:
        """The shard's samples. With answer states: those that the MLLM answered, with their answers."""
        samples = super().inputs(shard)
        if self.recipe.mllm.states == "prompt":
            return samples
        answers = read_answers(self.store, self.commit_before(MLLM, shard))
        return [{**row, "answer": answers[row["sample_id"]]} for row in samples if row["sample_id"] in answers]

    def compute(self, samples: Sequence[Row]) -> list[list[Row]]:
        """One row a sample: T5 tokens and CLIP's pooled vector. Raises UnfitAnswer for an answer that T5 would cut."""
        for sample in samples:
            answer, limit = sample.get("answer") or "", self.recipe.teacher.text_tokens
            # FLUX was trained with cut captions; but the states of a cut answer would say more than the teacher reads.
            if (tokens := self.encoders.num_tokens(answer)) > limit:
                raise UnfitAnswer(f"answer of {tokens} T5 tokens, teacher.text_tokens = {limit} fit: {shown(answer)}")
        conditioning = self.encoders.encode([sample.get("answer") or sample["caption"] for sample in samples])
        rows = []
        pairs = zip(samples, conditioning.prompt_embeds_BTE, conditioning.pooled_BP, strict=True)
        for sample, prompt_embeds_TE, pooled_P in pairs:
            _require_finite(prompt_embeds_TE, what="T5 output")
            _require_finite(pooled_P, what="CLIP output")
            columns = tensor_columns(encode_raw(prompt_embeds_TE))
            pooled = encode_raw(pooled_P.to(prompt_embeds_TE.dtype)).data
            rows.append([{"sample_id": sample["sample_id"], **columns, "pooled": pooled}])
        return rows


class MLLMStage(Stage):
    """Feeds captions to the multimodal LLM."""

    table = MLLM

    def __init__(self, recipe: Recipe, *, store: FeatureStore, batch_size: int, device: str) -> None:
        super().__init__(recipe, store=store, batch_size=batch_size, device=device)
        self.mllm = mllm.MLLM.load(recipe.mllm, device=device)
        self.pad_to = recipe.teacher.text_tokens if recipe.alignnet.padding == "reference" else None
        self.optional_columns = recipe.mllm.states != "prompt"

    def compute(self, samples: Sequence[Row]) -> list[list[Row]]:
        """One row a sample: the hidden states of all layers, of the caption or of the answer to it.

        Raises PromptTooLong for a caption, UnfitAnswer for an answer that AlignNet can't learn from.
        """
        answering = [states_kind(sample["sample_id"], config=self.recipe.mllm) == "answer" for sample in samples]
        prompts = [sample["caption"] for sample, answers in zip(samples, answering, strict=True) if not answers]
        asked = [sample["caption"] for sample, answers in zip(samples, answering, strict=True) if answers]
        states, answers = iter(self.mllm.encode(prompts, pad_to=self.pad_to)), iter(self.mllm.answers(asked))
        return [
            [self._answer_row(sample, next(answers)) if answered else self._prompt_row(sample, next(states))]
            for sample, answered in zip(samples, answering, strict=True)
        ]

    def _prompt_row(self, sample: Row, states_CSH: Tensor) -> Row:
        tokens, limit = states_CSH.shape[1], self.recipe.teacher.text_tokens
        if tokens > limit and self.recipe.alignnet.padding != "none":
            message = f"prompt of {tokens} tokens, at most teacher.text_tokens = {limit} can be learnt from"
            raise mllm.PromptTooLong(f"{message}: {shown(sample['caption'])}", index=0)
        return self._row(sample, states_CSH=states_CSH, answer=None)

    def _answer_row(self, sample: Row, answer: mllm.Answer) -> Row:
        if not answer.ended:
            limit = self.recipe.mllm.answer_tokens
            raise UnfitAnswer(f"answer doesn't end within mllm.answer_tokens = {limit}: {shown(answer.text)}")
        if not answer.text:
            raise UnfitAnswer("answer is empty")
        return self._row(sample, states_CSH=answer.states_CSH, answer=answer.text)

    def _row(self, sample: Row, *, states_CSH: Tensor, answer: str | None) -> Row:
        _require_finite(states_CSH, what="hidden states")
        row = {"sample_id": sample["sample_id"], "num_tokens": states_CSH.shape[1]}
        row |= tensor_columns(encode_raw(states_CSH))
        return {**row, "caption": sample["caption"], "answer": answer} if self.optional_columns else row


class TargetsStage(Stage):
    """Feeds T5 and CLIP outputs to the DiT and keeps its attention outputs on a canvas of noise."""

    table = TARGETS

    def __init__(self, recipe: Recipe, *, store: FeatureStore, batch_size: int, device: str) -> None:
        super().__init__(recipe, store=store, batch_size=batch_size, device=device)
        self.teacher = Teacher.load(recipe.teacher, device=device)
        self.taps = select_taps(self.teacher.tap_names, recipe.targets.taps)
        self.optional_columns = recipe.teacher.canvas == "estimate"

    def inputs(self, shard: int) -> list[Row]:
        """The shard's samples with their rows of table `text`; samples that `text` quarantined are left out."""
        text = read_text(self.store, self.commit_before(TEXT, shard))
        return [{**row, "text": text[row["sample_id"]]} for row in super().inputs(shard) if row["sample_id"] in text]

    def compute(self, samples: Sequence[Row]) -> list[list[Row]]:
        """One row a sample and tap."""
        config = self.recipe.targets
        seeds = [sample_seed(sample["sample_id"], seed=config.seed, purpose="noise") for sample in samples]
        conditioning = {
            "prompt_embeds_BTE": torch.stack([sample["text"].prompt_embeds_TE for sample in samples]),
            "pooled_BP": torch.stack([sample["text"].pooled_P for sample in samples]),
        }
        # The DiT runs once under the teacher's conditioning, and its attention outputs are captured.
        canvas_BNC = self.teacher.canvas(seeds, **conditioning)
        with attention_taps(self.teacher.dit, self.taps) as taken:
            self.teacher.forward(**conditioning, latents_BNC=canvas_BNC, sigma_B=self.teacher.sigmas(seeds))
        found = []
        for i, (sample, seed) in enumerate(zip(samples, seeds, strict=True)):
            rows = list(self._rows(sample, seed=seed, outputs={tap: taken[tap][i] for tap in self.taps}))
            if self.optional_columns:
                rows[0]["canvas"] = encode_raw(canvas_BNC[i]).data
            found.append(rows)
        return found

    def _rows(self, sample: Row, *, seed: int, outputs: dict[str, Tensor]) -> Iterator[Row]:
        config = self.recipe.targets
        text_idx, image_idx = draw_tokens(
            sample["sample_id"],
            config=config,
            num_text=self.teacher.num_text_tokens,
            num_image=self.teacher.num_image_tokens,
        )
        for tap_idx, (name, output_ND) in enumerate(outputs.items()):
            tap = Tap.named(name)
            kept = tap.positions(text_idx=text_idx, image_idx=image_idx, num_text=self.teacher.num_text_tokens)
            kept_TD = output_ND[kept.to(output_ND.device)].float()
            _require_finite(kept_TD, what=f"attention output of {name}")
            # z-scored over the channels, as the loss compares them.
            z_TD = (kept_TD - kept_TD.mean(-1, keepdim=True)) / (kept_TD.std(-1, keepdim=True) + 1e-7)
            blob = TARGET_ENCODERS[config.codec](z_TD)
            yield {
                "sample_id": sample["sample_id"],
                "tap": name,
                "tap_idx": tap_idx,
                "seed": seed,
                "text_idx": text_idx.tolist() if "text" in tap.streams else [],
                "image_idx": image_idx.tolist() if "image" in tap.streams else [],
                **tensor_columns(blob),
                "scale": blob.scale,
            }


STAGES: dict[str, type[Stage]] = {stage.table: stage for stage in (TextStage, MLLMStage, TargetsStage)}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _require_finite(tensor: Tensor, *, what: str) -> None:
    if not torch.isfinite(tensor).all():
        raise InputError(f"{what} is not finite")


def build_stage(table: str, *, recipe: Recipe, store_url: str) -> Stage:
    """The stage of a table, its model loaded."""
    resources: Any = getattr(recipe.run, table)
    return STAGES[table](
        recipe,
        store=FeatureStore.open(store_url),
        batch_size=resources.batch_size,
        device=choose_device(resources.num_gpus),
    )
