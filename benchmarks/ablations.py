"""`python benchmarks/ablations.py --folder DIR [LINE ...]`: what each choice in the miniature's recipe is worth.

A line changes one choice of a short run of recipe `mini` and trains an AlignNet by the package's own steps, in this
process: no Ray and no store between, so a trial costs minutes on one core. The student is then set beside the teacher
on the same held-out English scenes from the same noise. Each trial is written to `DIR/trials.jsonl` when it ends; run
the command again for those that are missing, and for the table.

One seed a line, several of `base`: their spread is the noise to read the others by. The KL is that of all taps and
tokens in pure noise, on the 64 captions that follow those trained on.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ablation_lab import (
    HELD_OUT,
    Kinds,
    Lab,
    Material,
    Reads,
    Targets,
    batch_of,
    kl_per_token,
    right_of,
    spread,
    targets_of,
    text_batch_of,
)

from pipelines import RECIPES
from x2i_platform.config import Recipe, States
from x2i_platform.console import progress_bar
from x2i_platform.evaluation.statistics import paired_interval
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.recipes import load, override
from x2i_platform.training.loop import learning_rate
from x2i_platform.training.step import distill_step
from x2i_platform.training.warm_start import warm_start_rate, warm_start_step


@dataclass(frozen=True)
class Choice:
    """What a line changes."""

    overrides: tuple[str, ...] = ()
    """Of recipe `mini`."""
    captions: int = 2000
    teacher_reads: Reads = "answer"
    """Of samples whose states are those of the MLLM's answer."""
    image_positions_only: bool = False
    """Leave the loss at text positions out."""


NO_STACK = ("alignnet.t5_layers=0", "alignnet.t5_heads=null")
NO_WARM_START = ("train.warm_start_steps=0",)
PURE_NOISE = ("teacher.sigma=1.0", "teacher.canvas=noise")
PROMPT = ("mllm.states=prompt",)
LINES: dict[str, Choice] = {
    "base": Choice(),
    "warm start: 0 steps": Choice(NO_WARM_START),
    "warm start: 2500 steps": Choice(("train.warm_start_steps=2500",)),
    "an answer's teacher reads the caption": Choice(teacher_reads="caption"),
    "fusion: scale": Choice(("alignnet.fusion=scale",)),
    "fusion: mean": Choice(("alignnet.fusion=mean",)),
    "stack: 0 layers": Choice(NO_STACK),
    "stack: 2 layers": Choice(("alignnet.t5_layers=2",)),
    "states: prompt": Choice(PROMPT),
    "states: answer": Choice(("mllm.states=answer",)),
    "padding: none, no warm start": Choice(("alignnet.padding=none", *NO_WARM_START)),
    "taps: double": Choice(("targets.taps=double",)),
    "taps: single": Choice(("targets.taps=single",)),
    "taps: image positions only": Choice(image_positions_only=True),
    "tokens kept: 16": Choice(("targets.image_tokens=11", "targets.text_tokens=5")),
    "tokens kept: 4": Choice(("targets.image_tokens=3", "targets.text_tokens=1")),
    "codec: bf16": Choice(("targets.codec=bf16",)),
    "direction: teacher_student": Choice(("train.direction=teacher_student",)),
    "sigma: 1.0": Choice(PURE_NOISE),
    "canvas: noise": Choice(("teacher.canvas=noise",)),
    "captions: 500": Choice(captions=500),
    "captions: 9000": Choice(captions=9000),
    "all of mini-reference": Choice((*PROMPT, *NO_STACK, *NO_WARM_START, *PURE_NOISE)),
}
KINDS: dict[str, Kinds] = {"prompt": ("prompt",), "answer": ("answer",), "mixed": ("prompt", "answer")}
"""Whose states an AlignNet of that `mllm.states` learns from, in turns, and is then given."""
SEEDS_OF_BASE = 4


@dataclass(frozen=True)
class Trial:
    """What one training came to."""

    line: str
    seed: int
    steps: int
    scenes: int
    kl_per_token: float
    right: dict[States, list[bool]]
    """By scene, with the states of the prompt, of the answer or with either."""
    seconds: float


def run(lab: Lab, line: str, *, seed: int, steps: int, warm_start_steps: int) -> Trial:
    """One training and its evaluation."""
    choice, started = LINES[line], time.monotonic()
    short = [f"train.steps={steps}", f"train.warm_start_steps={warm_start_steps}"]
    seeds = [f"train.seed={seed}", f"alignnet.init_seed={seed}"]
    recipe = override(load("mini", shipped=RECIPES), [*short, *seeds, *choice.overrides])
    kinds = KINDS[recipe.mllm.states]
    material = lab.material(choice.captions, kinds, choice.teacher_reads)
    targets = targets_of(lab, material.conditioning, captions=material.captions, recipe=recipe)
    if choice.image_positions_only:
        targets = targets.of_image_positions()
    alignnet = train(material, targets, recipe=recipe, title=f"{line}, seed {seed}")
    return Trial(
        line,
        seed,
        steps,
        len(lab.cases),
        kl_per_token(lab, alignnet, material=material, recipe=recipe),
        {kind: right_of(lab, alignnet, kind=kind, recipe=recipe) for kind in kinds},
        round(time.monotonic() - started),
    )


def train(material: Material, targets: Targets, *, recipe: Recipe, title: str) -> AlignNet:
    """The warm start, then distillation."""
    config = recipe.train
    alignnet = AlignNet(recipe.alignnet, dims=AlignNetDims.of(recipe))
    optimizer = torch.optim.AdamW(
        alignnet.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )

    def update(loss: torch.Tensor, lr: float) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(alignnet.parameters(), config.max_grad_norm)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()

    total = config.warm_start_steps + config.steps
    scales = spread(material)
    with progress_bar(title, unit="steps") as progress:
        order = shuffled(len(material.captions) - HELD_OUT, size=config.batch_size, seed=config.seed)
        for step in range(config.warm_start_steps):
            warm = text_batch_of(next(order), material, recipe=recipe)
            update(warm_start_step(alignnet, batch=warm, spread=scales).loss, warm_start_rate(step, config=config))
            progress(step + 1, total)
        order = shuffled(len(material.captions) - HELD_OUT, size=config.batch_size, seed=config.seed)
        for step in range(config.steps):
            batch = batch_of(next(order), material.states, targets, recipe=recipe)
            result = distill_step(alignnet, teacher=targets.teacher, batch=batch, config=config)
            update(result.loss, learning_rate(step, config=config))
            progress(config.warm_start_steps + step + 1, total)
    return alignnet.eval()


def shuffled(count: int, *, size: int, seed: int) -> Iterator[list[int]]:
    """Batches without end, each number once before any comes twice."""
    generator, left = random.Random(seed), list[int]()
    while True:
        if len(left) < size:
            left = list(range(count))
            generator.shuffle(left)
        yield left[:size]
        left = left[size:]


def table(trials: Sequence[Trial], *, teacher_right: Sequence[bool], scenes: Sequence[str]) -> str:
    """Markdown: a row a trial and kind of states."""
    rows = ["| line | seed | KL per token | states | right | student − teacher, points (95 %) |"]
    rows.append("|---|---:|---:|---|---:|---:|")
    for trial in sorted(trials, key=lambda trial: (list(LINES).index(trial.line), trial.seed)):
        for kind, right in trial.right.items():
            steps = [int(a) - int(b) for a, b in zip(right, teacher_right, strict=True)]
            low, high = paired_interval(steps, groups=scenes) or (0.0, 0.0)
            rows.append(
                f"| {trial.line} | {trial.seed} | {trial.kl_per_token:.5f} | {kind} | "
                f"{100 * sum(right) / len(right):.1f} % | "
                f"{100 * sum(steps) / len(steps):+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) |"
            )
    rows.append(f"| teacher | | | | {100 * sum(teacher_right) / len(teacher_right):.1f} % | |")
    return "\n".join(rows)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"of {', '.join(LINES)}; all")
    parser.add_argument("--folder", type=Path, required=True, help="where finished trials are kept")
    parser.add_argument("--steps", type=int, default=300, help="of distillation")
    parser.add_argument("--warm-start-steps", type=int, default=600)
    parser.add_argument("--scenes", type=int, default=300, help="held-out English scenes drawn by each student")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if unknown := set(arguments.lines) - set(LINES):
        parser.error(f"no line {', '.join(sorted(unknown))}; there are {', '.join(LINES)}")
    torch.set_num_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path, lab = arguments.folder / "trials.jsonl", Lab(scenes=arguments.scenes)
    done = [Trial(**json.loads(line)) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
    done = [each for each in done if each.steps == arguments.steps and each.scenes == arguments.scenes]
    wanted = [(line, 0) for line in arguments.lines or LINES]
    if not arguments.lines:
        wanted += [("base", seed) for seed in range(1, SEEDS_OF_BASE)]
    for line, seed in wanted:
        if not any((trial.line, trial.seed) == (line, seed) for trial in done):
            trial = run(lab, line, seed=seed, steps=arguments.steps, warm_start_steps=arguments.warm_start_steps)
            done.append(trial)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(trial)) + "\n")
    print(table(done, teacher_right=lab.teacher_right, scenes=[case.key for case in lab.cases]))


if __name__ == "__main__":
    main()
