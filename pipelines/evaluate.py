"""A student against its baseline: the same prompts, the same noise, and what became of each, as a report.

    tasks ──► student ──┐
         └──► baseline ─┴─► verdicts, distances ──► results.jsonl ──► report ──► MLflow, alias

Every case is written down as soon as it is known, so the same command continues where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from pipelines import RECIPES
from x2i_platform import fingerprint
from x2i_platform.config import Recipe, digest
from x2i_platform.errors import ConfigError
from x2i_platform.evaluation.curves import Curve
from x2i_platform.evaluation.distances import attention_distances
from x2i_platform.evaluation.images import (
    Baseline,
    baseline_file,
    check_layout,
    draw,
    forget_baseline,
    lay_out,
    open_image,
    student_file,
)
from x2i_platform.evaluation.options import Options
from x2i_platform.evaluation.report import write
from x2i_platform.evaluation.report_data import Report, Sheet, SheetRow
from x2i_platform.evaluation.results import ALL, Result, ResultLog
from x2i_platform.evaluation.statistics import Figures, GateVerdict, gate, summarise
from x2i_platform.evaluation.tasks import Task, file_tasks, suite_tasks
from x2i_platform.generation.generator import Generator
from x2i_platform.mini.suites import DEFAULT_SUITES
from x2i_platform.models.devices import choose_device
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.prompts import Prompt, Video
from x2i_platform.models.weights import identity
from x2i_platform.recipes import load, override
from x2i_platform.registry.evaluations import log_evaluation, record_gate

RESULTS_FILE = "results.jsonl"
MINI = "mini:"
SHEET_ROWS = 10
"""Cases of each suite that the report shows."""
FIGURES = ("accuracy", "baseline_accuracy", "difference", "difference_low", "difference_high")
"""Of each suite, split and kind of states; what a registered model's run gets."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Model:
    """The student: its files, the recipe to run it by, and what to call it."""

    name: str
    folder: Path
    recipe: Recipe


@dataclass(frozen=True)
class Versus:
    """What the student is compared with: the recipe's teacher, or another model in a folder."""

    name: str = "teacher"
    folder: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """Where the report is, and what it says."""

    report: str
    cases: int
    rows: list[Figures]
    verdict: GateVerdict | None


def student(name: str, folder: Path, *, recipe: str | None, overrides: Sequence[str]) -> Model:
    """A model folder with the recipe to run it by: its own, or the one named. Raises like `recipes.load`."""
    chosen = load(recipe, shipped=RECIPES, overrides=overrides) if recipe else override(read_recipe(folder), overrides)
    return Model(name, folder, chosen)


def plan(recipe: Recipe, options: Options) -> list[Task]:
    """Everything that is drawn, the recipe's own kind of states first.

    Raises InputError for a prompt file that isn't one, or that the layout's scorer can't take, ConfigError without one
    where the teacher is not of the miniature world.
    """
    states = sorted(options.states, key=lambda kind: kind != recipe.generate.states)
    if options.prompts:
        tasks = file_tasks(options.prompts, images=options.images, states=states)
        if options.layout:
            check_layout(tasks, layout=options.layout, settings=recipe.generate)
        return tasks
    if not options.suites and not recipe.teacher.model.startswith(MINI):
        raise ConfigError(
            f"suites are of the miniature world; '{recipe.teacher.model}' needs a file of prompts, or suites by name"
        )
    return suite_tasks(
        options.suites or tuple(DEFAULT_SUITES), count=options.cases, splits=options.splits, states=states
    )


def describe(model: Model, options: Options, *, out: Path) -> dict[str, object]:
    """What `run` would draw, and what is there already."""
    tasks = plan(model.recipe, options)
    drawn = sum((out / student_file(task)).is_file() for task in tasks)
    baseline = {baseline_file(task) for task in tasks}
    return {
        "report": str(out),
        "student_images": len(tasks),
        "of_them_drawn": drawn,
        "baseline_images": len(baseline),
        "of_those_drawn": sum((out / file).is_file() for file in baseline),
        "denoising_steps": (len(tasks) + len(baseline)) * model.recipe.generate.num_inference_steps,
    }


def run(
    model: Model,
    *,
    out: Path,
    options: Options,
    versus: Versus = Versus(),
    curves: Mapping[str, Curve] | None = None,
    on_progress: Progress,
) -> Outcome:
    """Evaluate a model and write the report to `out`. Raises StoreError where `out` holds another evaluation."""
    recipe = model.recipe
    tasks = plan(recipe, options)
    with ResultLog.open(out / RESULTS_FILE, fingerprint=_identity(model, versus=versus)) as log:
        device = choose_device(recipe.run.generate.num_gpus)
        generator = Generator.load(model.folder, recipe=recipe, device=device)
        baseline = Baseline(generator, other=versus.folder, device=device)
        _draw_missing(tasks, log=log, generator=generator, baseline=baseline, out=out, on_progress=on_progress)
        # An older log says nothing of compositions; the task does.
        results = [replace(log.results[task.key], composition=task.composition) for task in tasks]
    if options.layout:
        lay_out(tasks, layout=options.layout, out=out)
    rows = summarise(results)
    verdict = _verdict(rows, recipe=recipe, options=options)
    report = Report(
        title=f"{model.name} against {versus.name}",
        facts={"model": model.name, "recipe": recipe.name, "teacher": recipe.teacher.model, "MLLM": recipe.mllm.model},
        rows=rows,
        results=results,
        sheets=_sheets(tasks, results, out=out, baseline=versus.name),
        curves={"loss": curves} if curves else {},
        kl=attention_distances(generator, baseline=baseline, tasks=tasks) if baseline.encoders else {},
        verdict=verdict,
        baseline=versus.name,
    )
    return Outcome(str(write(out, report)), len(results), rows, verdict)


def _verdict(rows: Sequence[Figures], *, recipe: Recipe, options: Options) -> GateVerdict | None:
    """The gate judges the states that the model makes its images by, where they are among those evaluated."""
    if options.max_drop is None:
        return None
    own = recipe.generate.states
    return gate(rows, max_drop=options.max_drop, states=own if own in options.states else None)


def _draw_missing(
    tasks: Sequence[Task],
    *,
    log: ResultLog,
    generator: Generator,
    baseline: Baseline,
    out: Path,
    on_progress: Progress,
) -> None:
    if not log.results:
        forget_baseline(out)
    missing = [task for task in tasks if task.key not in log.results]
    size = generator.recipe.run.generate.batch_size
    for done, results in enumerate(draw(missing, generator=generator, baseline=baseline, out=out), start=1):
        for result in results:
            log.add(result)
        on_progress(min(done * size, len(missing)), len(missing))


def publish(outcome: Outcome, *, model: str, tracking_uri: str) -> dict[str, str]:
    """Log a registered model's report to its run, and a gate's verdict to the version; champion where it holds."""
    metrics = {
        f"evaluation/{row.suite}/{row.split}/{row.states}/{name}": value
        for row in _totals(outcome)
        for name in FIGURES
        if (value := getattr(row, name)) is not None
    }
    run = log_evaluation(model, folder=Path(outcome.report).parent, metrics=metrics, tracking_uri=tracking_uri)
    verdict, champion = outcome.verdict, None
    if verdict:
        champion = record_gate(model, holds=verdict.holds, reason=verdict.reason, tracking_uri=tracking_uri)
    return {name: value for name, value in (("run", run), ("champion", champion)) if value}


def summary(outcome: Outcome, *, figures: bool) -> dict[str, object]:
    """Where the report is, what the gate says and, if asked for, the figures; `report.json` holds the rest."""
    gate = {"gate": outcome.verdict.reason} if outcome.verdict else {}
    numbers = {"figures": _numbers(outcome)} if figures else {}
    return {"report": outcome.report, "cases": outcome.cases, **gate, **numbers}


def _numbers(outcome: Outcome) -> list[dict[str, object]]:
    """The rows of `table` as numbers: shares from 0 to 1, null where nothing judged."""
    names = ("suite", "split", "states", "cases", *FIGURES, "psnr")
    return [{name: getattr(row, name) for name in names} for row in _totals(outcome)]


def table(outcome: Outcome) -> list[dict[str, str]]:
    """The suites' figures for a terminal."""
    return [
        {
            "suite": f"{row.suite} {row.split.replace('_', ' ')}",
            "states": row.states,
            "right": _percent(row.accuracy),
            "baseline": _percent(row.baseline_accuracy),
            "difference": _points(row),
            "psnr": "" if row.psnr is None else f"{row.psnr:.1f}",
        }
        for row in _totals(outcome)
    ]


def _totals(outcome: Outcome) -> list[Figures]:
    """One row for each suite, split and kind of states."""
    return [row for row in outcome.rows if row.category == ALL]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _points(row: Figures) -> str:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return ""
    return f"{100 * row.difference:+.1f} ({100 * row.difference_low:+.1f} to {100 * row.difference_high:+.1f})"


def _identity(model: Model, *, versus: Versus) -> dict[str, object]:
    """What decides the images; which cases are drawn does not."""
    return {
        "model": identity(str(model.folder.absolute())),
        "generation": digest(fingerprint.generation(model.recipe)),
        "settings": model.recipe.generate.model_dump(mode="json", exclude={"states"}),
        "baseline": identity(str(versus.folder.absolute())) if versus.folder else versus.name,
    }


def _sheets(tasks: Sequence[Task], results: Sequence[Result], *, out: Path, baseline: str) -> list[Sheet]:
    """For each suite, split and kind of states its first cases, beside what the student was shown, if it was."""
    parts: dict[str, list[tuple[Task, Result]]] = {}
    for task, result in zip(tasks, results, strict=True):
        split = "" if task.split == "all" else f", {task.split.replace('_', ' ')}"
        parts.setdefault(f"{task.suite}{split}, {task.states} states", []).append((task, result))
    return [_sheet(name, part[:SHEET_ROWS], out=out, baseline=baseline) for name, part in parts.items()]


def _sheet(name: str, part: Sequence[tuple[Task, Result]], *, out: Path, baseline: str) -> Sheet:
    rows = []
    for task, result in part:
        shown = [] if isinstance(task.prompt, str) else [last_frame(task.prompt)]
        images = [*shown, open_image(out / baseline_file(task)), open_image(out / student_file(task))]
        marks = [*[None] * len(shown), result.baseline_right, result.right]
        rows.append(SheetRow(result.prompt, images, marks, gloss=f"{task.suite}: {task.english}"))
    columns = ["prompt"] if part and not isinstance(part[0][0].prompt, str) else []
    return Sheet(name, [*columns, baseline, "student"], rows)


def last_frame(prompt: Prompt) -> Image.Image:
    part = prompt.media[-1]
    return part.frames[-1] if isinstance(part, Video) else part
