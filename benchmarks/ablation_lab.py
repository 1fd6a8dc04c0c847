"""What the trials of `ablations.py` share: the frozen models, what is computed once for several trials, measurements.

Shape suffixes: B batch, N image tokens, C packed latent channels, S MLLM tokens, T kept tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from pipelines import RECIPES
from x2i_platform.config import Recipe, States
from x2i_platform.features.codec import decode, encode_int8, encode_raw
from x2i_platform.features.reader import TextRow
from x2i_platform.mini.judge import judge
from x2i_platform.mini.languages import caption
from x2i_platform.mini.suites import cases
from x2i_platform.mini.training.corpus import CAPTIONS_SEED, training_scenes
from x2i_platform.models.alignnet import AlignNet, pad_states
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.taps import Tap, attention_taps, select_taps
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.precompute.draws import draw_tokens
from x2i_platform.recipes import load, override
from x2i_platform.training.data import Batch
from x2i_platform.training.loop import SPREAD_SAMPLES
from x2i_platform.training.step import distill_step
from x2i_platform.training.warm_start import Spread, TextBatch, spread_of

HELD_OUT = 64
"""Captions of every trial that only the KL is measured on."""
CHUNK = 50
Kinds = tuple[States, ...]
Reads = Literal["answer", "caption"]


@dataclass(frozen=True)
class Material:
    """Captions, the MLLM's states of each, and what T5 and CLIP make of the text that its teacher reads."""

    captions: list[str]
    states: list[Tensor]
    conditioning: Conditioning


class Lab:
    """The frozen models. What depends on captions and kinds of states alone is computed once."""

    def __init__(self, *, scenes: int) -> None:
        recipe = load("mini", shipped=RECIPES)
        self.pipeline = ImagePipeline.load(recipe.teacher)
        self.encoders = TextEncoders.load(recipe.teacher)
        self.mllm = MLLM.load(recipe.mllm)
        self.cases = list(islice(cases("english", held_out=True), scenes))
        whole = self.encoded([case.english for case in self.cases])
        chunks = zip(*(torch.split(each, CHUNK) for each in _pair(whole)), strict=True)
        self.teacher_right = self.judged((Conditioning(*chunk) for chunk in chunks), recipe=recipe)
        self.material = cache(self._material)
        self.case_states = cache(self._case_states)

    def encoded(self, texts: Sequence[str]) -> Conditioning:
        """T5's and CLIP's."""
        parts = [self.encoders.encode(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
        return Conditioning(*(torch.cat(each) for each in zip(*(_pair(part) for part in parts), strict=True)))

    def _material(self, count: int, kinds: Kinds, reads: Reads) -> Material:
        """`count` English captions of training scenes and those the KL is measured on; kinds of states in turns."""
        different: dict[str, None] = {}
        for number, scene in enumerate(training_scenes(seed=CAPTIONS_SEED)):
            different[caption(scene, seed=number)] = None
            if len(different) == count + HELD_OUT:
                break
        captions = list(different)
        states, texts = [torch.empty(0)] * len(captions), list(captions)
        for first, kind in enumerate(kinds):
            mine = range(first, len(captions), len(kinds))
            for i in range(0, len(mine), CHUNK):
                chosen = mine[i : i + CHUNK]
                asked = [captions[number] for number in chosen]
                said = self.mllm.answers(asked) if kind == "answer" else []
                found = [answer.states_CSH for answer in said] or self.mllm.encode(asked)
                for number, states_CSH in zip(chosen, found, strict=True):
                    states[number] = states_CSH.half()
                if reads == "answer":
                    for number, answer in zip(chosen, said, strict=False):
                        texts[number] = answer.text
        return Material(captions, states, self.encoded(texts))

    def _case_states(self, kind: States) -> list[Tensor]:
        prompts = [case.english for case in self.cases]
        chunks = [prompts[i : i + CHUNK] for i in range(0, len(prompts), CHUNK)]
        return [states_CSH for chunk in chunks for states_CSH in self.mllm.encode(chunk, states=kind)]

    def judged(self, parts: Iterable[Conditioning], *, recipe: Recipe) -> list[bool]:
        """Which of the cases are drawn right, given the conditioning of all, in parts."""
        right, cases = [], iter(self.cases)
        for part in parts:
            mine = list(islice(cases, len(part.pooled_BP)))
            images = self.pipeline.generate(
                part.prompt_embeds_BTE,
                pooled_BP=part.pooled_BP,
                seeds=[case.seed for case in mine],
                settings=recipe.generate,
            )
            right += [judge(image, case.scene).right for image, case in zip(images, mine, strict=True)]
        return right


def _pair(conditioning: Conditioning) -> tuple[Tensor, Tensor]:
    return conditioning.prompt_embeds_BTE, conditioning.pooled_BP


@dataclass(frozen=True)
class Targets:
    """Those of some captions, as `precompute` would store them; a caption's number is its seed."""

    teacher: Teacher
    text_idx: Tensor
    image_idx: Tensor
    outputs: dict[str, Tensor]
    canvas_BNC: Tensor

    def of_image_positions(self) -> Targets:
        """Without the text positions of any tap."""
        num_text = self.text_idx.shape[1]
        streams = {name: Tap.named(name).split(output, num_text=num_text) for name, output in self.outputs.items()}
        kept = {name: split["image"] for name, split in streams.items() if "image" in split}
        return replace(self, text_idx=self.text_idx[:, :0], outputs=kept)


@torch.no_grad()
def targets_of(lab: Lab, conditioning: Conditioning, *, captions: Sequence[str], recipe: Recipe) -> Targets:
    """The teacher's attention outputs, at its recipe's noise levels."""
    teacher = lab.pipeline.teacher(recipe.teacher)
    taps = select_taps(teacher.tap_names, recipe.targets.taps)
    sizes = {"num_text": teacher.num_text_tokens, "num_image": teacher.num_image_tokens}
    drawn = [draw_tokens(each, config=recipe.targets, **sizes) for each in captions]
    found: dict[str, list[Tensor]] = {tap: [] for tap in taps}
    canvases: list[Tensor] = []
    for i in range(0, len(captions), CHUNK):
        numbers = range(i, min(i + CHUNK, len(captions)))
        given = {
            "prompt_embeds_BTE": conditioning.prompt_embeds_BTE[i : i + CHUNK],
            "pooled_BP": conditioning.pooled_BP[i : i + CHUNK],
        }
        canvases.append(teacher.canvas(numbers, **given))
        with attention_taps(teacher.dit, taps) as taken:
            teacher.forward(**given, latents_BNC=canvases[-1], sigma_B=teacher.sigmas(numbers))
        for tap in taps:
            for row, number in enumerate(numbers):
                text_idx, image_idx = drawn[number]
                kept = Tap.named(tap).positions(
                    text_idx=text_idx, image_idx=image_idx, num_text=teacher.num_text_tokens
                )
                found[tap].append(_stored(taken[tap][row, kept], codec=recipe.targets.codec))
    text_idx, image_idx = (torch.stack(each) for each in zip(*drawn, strict=True))
    outputs = {tap: torch.stack(rows) for tap, rows in found.items()}
    return Targets(teacher, text_idx, image_idx, outputs, torch.cat(canvases))


def _stored(output_TD: Tensor, *, codec: str) -> Tensor:
    z_TD = (output_TD - output_TD.mean(-1, keepdim=True)) / (output_TD.std(-1, keepdim=True) + 1e-7)
    return decode(encode_int8(z_TD) if codec == "int8" else encode_raw(z_TD.bfloat16())).bfloat16()


def states_of(chosen: Sequence[int], states: Sequence[Tensor], *, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Padded states `(B, C, S, H)` of some captions, and their mask."""
    return pad_states(
        [states[i].float() for i in chosen],
        text_tokens=recipe.teacher.text_tokens,
        padding=recipe.alignnet.padding,
    )


def text_batch_of(chosen: Sequence[int], material: Material, *, recipe: Recipe) -> TextBatch:
    """What `TextDataset` and `TextCollate` would give."""
    states_BCSH, mask_BS = states_of(chosen, material.states, recipe=recipe)
    return TextBatch(
        sample_ids=tuple(map(str, chosen)),
        states_BCSH=states_BCSH,
        mask_BS=mask_BS,
        prompt_embeds_BTE=material.conditioning.prompt_embeds_BTE[chosen],
        pooled_BP=material.conditioning.pooled_BP[chosen],
    )


def spread(material: Material) -> Spread:
    """Of the first captions, as the training loop has it."""
    pairs = zip(*(each[:SPREAD_SAMPLES] for each in _pair(material.conditioning)), strict=True)
    return spread_of(TextRow(*pair) for pair in pairs)


def batch_of(chosen: Sequence[int], states: Sequence[Tensor], targets: Targets, *, recipe: Recipe) -> Batch:
    """What `FeatureDataset` and `Collate` would give."""
    states_BCSH, mask_BS = states_of(chosen, states, recipe=recipe)
    rows = torch.tensor(chosen)
    return Batch(
        sample_ids=tuple(map(str, chosen)),
        seeds=tuple(chosen),
        states_BCSH=states_BCSH,
        mask_BS=mask_BS,
        text_idx_BT=targets.text_idx[rows],
        image_idx_BT=targets.image_idx[rows],
        targets_BTD={tap: values[rows].float() for tap, values in targets.outputs.items()},
        canvas_BL=targets.canvas_BNC[rows].flatten(1),
    )


@torch.no_grad()
def kl_per_token(lab: Lab, alignnet: AlignNet, *, material: Material, recipe: Recipe) -> float:
    """On the captions held out, in pure noise, over all taps and tokens."""
    whole = override(recipe, ["targets.taps=all", "targets.image_tokens=all", "targets.text_tokens=all"])
    whole = override(whole, ["targets.codec=bf16", "train.direction=student_teacher", "teacher.sigma=1.0"])
    own = Conditioning(*(each[-HELD_OUT:] for each in _pair(material.conditioning)))
    targets = targets_of(lab, own, captions=material.captions[-HELD_OUT:], recipe=whole)
    batch = batch_of(range(HELD_OUT), material.states[-HELD_OUT:], targets, recipe=whole)
    result = distill_step(alignnet, teacher=targets.teacher, batch=batch, config=whole.train)
    return result.loss.item() / result.num_tokens


@torch.no_grad()
def right_of(lab: Lab, alignnet: AlignNet, *, kind: States, recipe: Recipe) -> list[bool]:
    """Which of the cases the student draws right, given its states of that kind."""
    states = lab.case_states(kind)
    # The DiT knows no mask: without padding each prompt is drawn alone, as `Generator` does.
    size = 1 if recipe.alignnet.padding == "none" else CHUNK
    chunks = [range(i, min(i + size, len(states))) for i in range(0, len(states), size)]
    padded = (states_of(chunk, states, recipe=recipe) for chunk in chunks)
    parts = (alignnet(states_BCSH, mask_BS=mask_BS) for states_BCSH, mask_BS in padded)
    return lab.judged(parts, recipe=recipe)
