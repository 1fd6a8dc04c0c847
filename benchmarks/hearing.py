"""`python benchmarks/hearing.py [--cases N]`: how often mini:qwen2.5-omni answers with the right scene.

It is told in writing and by voices that speak anew: timbres it was trained on, and others. Needs the extra `speech`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice

import numpy as np

from pipelines import RECIPES
from x2i_platform.media.clips import Audio
from x2i_platform.mini.languages import describe
from x2i_platform.mini.scenes import canonical
from x2i_platform.mini.speech import NEW_TIMBRES, TIMBRES
from x2i_platform.mini.suites import Case, cases
from x2i_platform.mini.training.audio import record
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.prompts import Prompt
from x2i_platform.recipes import load

MODEL = "mini:qwen2.5-omni"
SEED = 999_331
"""Of voices and noise; no training has it, nor have the recordings."""
BATCH = 25
SPLITS = {"held out": True, "seen": False}


def main() -> None:
    """Print a row for each split and kind of prompt, and the wrong answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    count = parser.parse_args().cases
    mllm = MLLM.load(load("mini", shipped=RECIPES, overrides=[f"mllm.model={MODEL}"]).mllm)
    for split, held_out in SPLITS.items():
        chosen = list(islice(cases("english", held_out=held_out), count))
        captions = [case.english for case in chosen]
        kinds: dict[str, Sequence[str | Prompt]] = {
            "written": captions,
            "timbres of the training": spoken(captions, timbres=TIMBRES),
            "new timbres": spoken(captions, timbres=NEW_TIMBRES),
            **{f"new timbre {timbre}": spoken(captions, timbres=(timbre,)) for timbre in NEW_TIMBRES},
        }
        for kind, prompts in kinds.items():
            wrong = mistakes(mllm, prompts, cases=chosen)
            print(f"{split}, {kind}: {count - len(wrong)} of {count} right")
            print(*wrong, sep="\n")


def spoken(captions: Sequence[str], *, timbres: Sequence[str]) -> list[Prompt]:
    """Prompts of captions in voices of some timbres."""
    return [Prompt.of(Audio(np.clip(one.samples, -1, 1))) for one in record(captions, seed=SEED, timbres=timbres)]


def mistakes(mllm: MLLM, prompts: Sequence[str | Prompt], *, cases: Sequence[Case]) -> list[str]:
    """The answers that don't describe their scene, beside what was said."""
    answers = [
        answer.text
        for start in range(0, len(prompts), BATCH)
        for answer in mllm.answers(prompts[start : start + BATCH])
    ]
    return [
        f"    {case.english!r}: {answer!r}"
        for case, answer in zip(cases, answers, strict=True)
        if answer != describe(canonical(case.scene))
    ]


if __name__ == "__main__":
    main()
