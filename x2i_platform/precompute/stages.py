"""The three stages of precompute. Each holds one frozen model and computes one table of a planned shard.

    samples ──► mllm
       └──────► text ──► targets

With `mllm.states` other than `prompt` the order is mllm, text, targets: for a sample with answer states the teacher
reads the MLLM's answer instead of the caption. A stage runs without Ray; `pipelines/precompute.py` has the actors.

Invariants: a committed shard is not computed again; a row that fails is quarantined with its reason, and the other rows
are kept; the result for a caption depends on the caption and the recipe alone.
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
from x2i_platform.models.prompt_reader import PromptTooLong
from x2i_platform.models.taps import Tap, attention_taps, select_taps
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.precompute.draws import draw_tokens, states_kind

log = logging.getLogger(__name__)

STOPS_THE_SHARD = (*NOT_A_ROWS_FAULT, torch.OutOfMemoryError)
"""Errors that must not quarantine rows. All rows have the same size, so running out of memory is no row's fault."""


class UnfitAnswer(InputError):  # noqa: N818
    """An answer of the MLLM can't be used instead of its caption."""


SAMPLES_OWN_FAULT = (PromptTooLong, UnfitAnswer)
"""Errors of a sample. Even if all samples of a shard have one, model and device are fine."""


class Stage(ABC):
    """A model and the table it computes."""

    table: str
    optional_columns = False
    """Whether the recipe asks for the table's optional columns."""

    def __init__(self, recipe: Recipe, *, store: FeatureStore, batch_size: int, device: str) -> None:
        self.recipe, self.store, self.batch_size, self.device = recipe, store, batch_size, device

    @abstractmethod
    def compute(self, samples: Sequence[Row]) -> list[list[Row]]:
        """Compute the table's rows for each sample."""

    def inputs(self, shard: int) -> list[Row]:
        """Read a shard's samples, with the inputs that this stage needs."""
        commit = self.store.commit_of(SAMPLES, shard)
        if commit is None:
            raise StoreError(f"shard {shard} is not planned in '{self.store.files.url}'")
        return read_samples(self.store, commit)

    def commit_before(self, table: str, shard: int) -> Commit:
        """Return the shard's commit in a table that this stage reads. Raises StoreError if there is none."""
        commit = self.store.commit_of(table, shard)
        if commit is None:
            raise StoreError(f"shard {shard} of table '{table}' must be committed before its {self.table}")
        return commit

    @torch.inference_mode()
    def run(self, shard: int) -> bool:
        """Compute and commit a shard. Returns False if it was committed already.

        Raises InputError if every sample fails and none by its own fault: then model or device is broken, and an empty
        shard would never be computed again. For a shard of one sample, a sample of a neighbouring shard decides.
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
        """Whether the first sample of a neighbouring shard can be computed."""
        for other in (shard - 1, shard + 1):
            with suppress(X2IError, ValueError, RuntimeError, IndexError):
                if samples := self.inputs(other)[:1]:
                    return bool(self.compute(samples))
        return False

    def _write_batch(self, writer: ShardWriter, samples: Sequence[Row]) -> list[Exception]:
        """Add the rows of some samples and return the errors of the quarantined ones."""
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
            # One sample of the batch is at fault: compute each by itself to find it.
            return [failure for sample in samples for failure in self._write_batch(writer, [sample])]
        for rows in results:
            for row in rows:
                writer.add(row)
        return []


class TextStage(Stage):
    """Encodes captions, or the MLLM's answers to them, with T5 and CLIP."""

    table = TEXT

    def __init__(self, recipe: Recipe, *, store: FeatureStore, batch_size: int, device: str) -> None:
        super().__init__(recipe, store=store, batch_size=batch_size, device=device)
        self.encoders = TextEncoders.load(recipe.teacher, device=device)

    def inputs(self, shard: int) -> list[Row]:
        """Read the shard's samples. If the MLLM answers, return those that table `mllm` has, with their answers."""
        samples = super().inputs(shard)
        if self.recipe.mllm.states == "prompt":
            return samples
        answers = read_answers(self.store, self.commit_before(MLLM, shard))
        return [{**row, "answer": answers[row["sample_id"]]} for row in samples if row["sample_id"] in answers]

    def compute(self, samples: Sequence[Row]) -> list[list[Row]]:
        """Return one row per sample: T5 tokens and pooled vector. Raises UnfitAnswer if T5 would cut an answer."""
        limit = (kind := self.encoders.architecture).t5_tokens(self.recipe.teacher)
        for answer in (sample.get("answer") or "" for sample in samples):
            # Captions may be cut, as in the DiT's training. But the states of a cut answer say more than T5 reads.
            if (tokens := self.encoders.num_tokens(answer)) > limit:
                raise UnfitAnswer(f"answer of {tokens} T5 tokens, {kind.t5_setting} = {limit} fit: {shown(answer)}")
        conditioning = self.encoders.encode([sample.get("answer") or sample["caption"] for sample in samples])
        rows = []
        # (B, T, E) and (B, P) -> one row per sample, with both tensors in T5's dtype.
        for sample, prompt_embeds_TE, pooled_P in zip(samples, *conditioning, strict=True):
            _require_finite(prompt_embeds_TE, what="T5 output")
            _require_finite(pooled_P, what="CLIP output")
            columns = tensor_columns(encode_raw(prompt_embeds_TE))
            pooled = encode_raw(pooled_P.to(prompt_embeds_TE.dtype)).data
            rows.append([{"sample_id": sample["sample_id"], **columns, "pooled": pooled}])
        return rows


class MLLMStage(Stage):
    """Computes the multimodal LLM's hidden states of captions or answers."""

    table = MLLM

    def __init__(self, recipe: Recipe, *, store: FeatureStore, batch_size: int, device: str) -> None:
        super().__init__(recipe, store=store, batch_size=batch_size, device=device)
        self.mllm = mllm.MLLM.load(recipe.mllm, device=device)
        self.pad_to = recipe.teacher.text_tokens if recipe.alignnet.padding == "reference" else None
        self.optional_columns = recipe.mllm.states != "prompt"

    def compute(self, samples: Sequence[Row]) -> list[list[Row]]:
        """Return one row per sample: the hidden states of all layers, for the caption or for the answer to it.

        Raises PromptTooLong for a caption that AlignNet can't learn from, UnfitAnswer for such an answer.
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
            raise PromptTooLong(f"{message}: {shown(sample['caption'])}", index=0)
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
    """Computes the DiT's attention outputs for T5's and CLIP's outputs."""

    table = TARGETS

    def __init__(self, recipe: Recipe, *, store: FeatureStore, batch_size: int, device: str) -> None:
        super().__init__(recipe, store=store, batch_size=batch_size, device=device)
        self.teacher = Teacher.load(recipe.teacher, device=device)
        self.taps = select_taps(self.teacher.tap_names, recipe.targets.taps)
        self.optional_columns = recipe.teacher.canvas == "estimate"

    def inputs(self, shard: int) -> list[Row]:
        """Read the shard's samples with their rows of table `text`. Samples that `text` quarantined are left out."""
        text = read_text(self.store, self.commit_before(TEXT, shard))
        return [{**row, "text": text[row["sample_id"]]} for row in super().inputs(shard) if row["sample_id"] in text]

    def compute(self, samples: Sequence[Row]) -> list[list[Row]]:
        """Return one row per sample and tap."""
        seeds = [sample_seed(row["sample_id"], seed=self.recipe.targets.seed, purpose="noise") for row in samples]
        conditioning = {
            "prompt_embeds_BTE": torch.stack([sample["text"].prompt_embeds_TE for sample in samples]),
            "pooled_BP": torch.stack([sample["text"].pooled_P for sample in samples]),
        }
        # Noise canvases are drawn again in training, from the same seeds; an estimate is stored below.
        canvas_BNC = self.teacher.canvas(seeds, **conditioning)
        with attention_taps(self.teacher.dit, self.taps) as outputs:
            self.teacher.forward(**conditioning, latents_BNC=canvas_BNC, sigma_B=self.teacher.sigmas(seeds))
        found = []
        # Per tap (B, N, D) -> one row per sample and tap.
        for i, (sample, seed) in enumerate(zip(samples, seeds, strict=True)):
            rows = list(self._rows(sample, seed=seed, outputs={tap: outputs[tap][i] for tap in self.taps}))
            if self.optional_columns:
                rows[0]["canvas"] = encode_raw(canvas_BNC[i]).data
            found.append(rows)
        return found

    def _rows(self, sample: Row, *, seed: int, outputs: dict[str, Tensor]) -> Iterator[Row]:
        config = self.recipe.targets
        # Keep a random sample of the tokens, the same for all taps: all tokens of all taps would be too large to store.
        text_idx, image_idx = draw_tokens(
            sample["sample_id"],
            config=config,
            num_text=self.teacher.num_text_tokens,
            num_image=self.teacher.num_image_tokens,
        )
        for tap_idx, (name, output_ND) in enumerate(outputs.items()):
            tap = Tap.named(name)
            kept = tap.positions(text_idx=text_idx, image_idx=image_idx, num_text=self.teacher.num_text_tokens)
            # (N, D) -> (T, D): only the kept tokens.
            kept_TD = output_ND[kept.to(output_ND.device)].float()
            _require_finite(kept_TD, what=f"attention output of {name}")
            # Z-score over channels, as the loss does. All tokens then share a scale, as int8's scale per channel needs.
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
    """Build the stage of a table and load its model."""
    resources: Any = getattr(recipe.run, table)
    return STAGES[table](
        recipe,
        store=FeatureStore.open(store_url),
        batch_size=resources.batch_size,
        device=choose_device(resources.num_gpus),
    )
