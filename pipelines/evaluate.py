"""Compares a student with its baseline, on the same prompts and noise, and writes a report.

    tasks ──► student ──┐
         └──► baseline ─┴─► verdicts, distances ──► results.jsonl ──► report ──► MLflow, alias

Every case is written down as soon as it is known, so the same command continues where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipelines import RECIPES
from pipelines.ray_cluster.session import Demand, bounded_restarts, ray_session, worker_error
from x2i_platform import fingerprint
from x2i_platform.config import Recipe
from x2i_platform.digests import digest
from x2i_platform.errors import ConfigError, X2IError, from_text, to_text
from x2i_platform.evaluation.curves import Curve
from x2i_platform.evaluation.evaluator import Assignment, Evaluator
from x2i_platform.evaluation.images import baseline_file, check_layout, forget_baseline, lay_out, student_file
from x2i_platform.evaluation.options import Options
from x2i_platform.evaluation.outcome import Outcome
from x2i_platform.evaluation.report import write
from x2i_platform.evaluation.report_data import Report
from x2i_platform.evaluation.results import ResultLog
from x2i_platform.evaluation.sheets import first_cases
from x2i_platform.evaluation.statistics import gate, summarise
from x2i_platform.evaluation.tasks import Task, file_tasks, suite_tasks
from x2i_platform.evaluation.work import FOUND, Found, MeasureDistance, Piece, Workers, batches, distances, do_piece
from x2i_platform.mini.suites import DEFAULT_SUITES
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.weights import identity
from x2i_platform.progress import Progress
from x2i_platform.recipes import load, override
from x2i_platform.registry import evaluations
from x2i_platform.registry.models import resolve

RESULTS_FILE = "results.jsonl"
MINI = "mini:"
TEACHER = "teacher"


@dataclass(frozen=True)
class Student:
    """The model that is evaluated: its files, the recipe to run it by, what to call it, the losses of its training."""

    name: str
    folder: Path
    recipe: Recipe
    curves: Mapping[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """What the student is compared with: the recipe's teacher, or another model in a folder."""

    name: str = TEACHER
    folder: Path | None = None


def student(model: str, *, recipe: str | None, overrides: Sequence[str], tracking_uri: str) -> Student:
    """A model with its own recipe, or with the one named. Its alias is resolved once, because it may move while images
    are drawn.

    Raises RegistryError or WeightsError if there is no such model, ConfigError for its recipe.
    """
    name = evaluations.pin(model, tracking_uri=tracking_uri)
    folder = resolve(name, tracking_uri=tracking_uri)
    chosen = load(recipe, shipped=RECIPES, overrides=overrides) if recipe else override(read_recipe(folder), overrides)
    return Student(name, folder, chosen, evaluations.learning_curves(name, tracking_uri=tracking_uri))


def baseline(name: str, *, tracking_uri: str) -> Baseline:
    """The teacher, or another model by its name. Raises RegistryError or WeightsError if there is none."""
    return Baseline() if name == TEACHER else Baseline(name, resolve(name, tracking_uri=tracking_uri))


def choose_tasks(recipe: Recipe, options: Options) -> list[Task]:
    """All tasks, with the recipe's own kind of states first.

    Raises InputError for a prompt file that can't be read or that the layout's scorer can't take, ConfigError if there
    is none and the teacher is not of the miniature world.
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


def describe(model: Student, options: Options, *, out: Path) -> dict[str, object]:
    """What `run` would draw, and what is already drawn."""
    tasks = choose_tasks(model.recipe, options)
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
    model: Student,
    *,
    out: Path,
    options: Options,
    baseline: Baseline = Baseline(),
    workers: Workers,
    on_progress: Progress,
) -> Outcome:
    """Evaluate a model and write the report to `out`. Raises StoreError where `out` holds another evaluation."""
    recipe = model.recipe
    tasks = choose_tasks(recipe, options)
    assignment = Assignment(recipe, model.folder.absolute(), baseline.folder, out.absolute(), tasks)
    with ResultLog.open(out / RESULTS_FILE, fingerprint=_identity(model, baseline=baseline)) as log:
        kl = _evaluate(assignment, log=log, workers=workers, on_progress=on_progress)
        # An older log has no compositions; they come from the task.
        results = [replace(log.results[task.key], composition=task.composition) for task in tasks]
    if options.layout:
        lay_out(tasks, layout=options.layout, out=out)
    rows = summarise(results)
    # The gate judges the kind of states that the model generates with, if it was evaluated.
    own = recipe.generate.states if recipe.generate.states in options.states else None
    verdict = None if options.max_drop is None else gate(rows, max_drop=options.max_drop, states=own)
    report = Report(
        title=f"{model.name} against {baseline.name}",
        facts={"model": model.name, "recipe": recipe.name, "teacher": recipe.teacher.model, "MLLM": recipe.mllm.model},
        rows=rows,
        results=results,
        sheets=first_cases(tasks, results, out=out, baseline=baseline.name),
        curves={"loss": model.curves} if model.curves else {},
        kl=kl,
        verdict=verdict,
        baseline=baseline.name,
    )
    return Outcome(str(write(out, report)), len(results), rows, verdict)


def publish(outcome: Outcome, *, model: str, tracking_uri: str) -> dict[str, str]:
    """Log a registered model's report to its run, and a gate's verdict to the version; champion where it holds."""
    folder = Path(outcome.report).parent
    run = evaluations.log_evaluation(model, folder=folder, metrics=outcome.metrics(), tracking_uri=tracking_uri)
    verdict, champion = outcome.verdict, None
    if verdict:
        champion = evaluations.record_gate(model, holds=verdict.holds, reason=verdict.reason, tracking_uri=tracking_uri)
    return {name: value for name, value in (("run", run), ("champion", champion)) if value}


def on_ray(address: str | None) -> Workers:
    """Workers on a Ray cluster: actors that each hold the models, as many as `run.generate` says."""

    def work(assignment: Assignment, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Found]]:
        pool = assignment.recipe.run.generate
        with ray_session(address, demand=Demand(pool.actors * pool.num_cpus, pool.actors * pool.num_gpus)):
            yield from _on_actors(assignment, pieces)

    return work


class EvaluatorActor:
    """An `Evaluator` inside a Ray actor. An error travels in the row: Ray would send a traceback."""

    def __init__(self, assignment: ray.ObjectRef, pieces: Sequence[Piece]) -> None:
        self.refusal, self.pieces = "", pieces
        found: Assignment = ray.get(assignment)
        self.tasks = found.tasks
        try:
            self.evaluator = Evaluator(found)
        except X2IError as error:
            self.refusal = to_text(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do the piece of a number."""
        if self.refusal:
            return {**row, "found": "", "error": self.refusal}
        try:
            found = do_piece(self.evaluator, self.pieces[row["piece"]], tasks=self.tasks)
        except X2IError as error:
            return {**row, "found": "", "error": to_text(error)}
        return {**row, "found": FOUND.dump_json(found).decode(), "error": ""}


def _on_actors(assignment: Assignment, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Found]]:
    pool = assignment.recipe.run.generate
    # Tasks hold pictures and videos, so they are stored once in the object store; only a piece's number flows.
    rows = [{"piece": number} for number in range(len(pieces))]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        EvaluatorActor,
        fn_constructor_args=(ray.put(assignment), pieces),
        compute=ActorPoolStrategy(size=pool.actors),
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        ray_remote_args_fn=bounded_restarts,
    )
    try:
        for row in dataset.iter_rows():
            if row["error"]:
                raise from_text(row["error"])
            yield pieces[row["piece"]], FOUND.validate_json(row["found"])
    except RayError as error:
        raise worker_error(error) from None


def _evaluate(assignment: Assignment, *, log: ResultLog, workers: Workers, on_progress: Progress) -> dict[str, float]:
    """Draw the tasks that the log lacks. Returns the attention distances to the teacher, by the captions they were
    measured on.
    """
    if not log.results:
        forget_baseline(assignment.out)
    missing = [place for place, task in enumerate(assignment.tasks) if task.key not in log.results]
    measured = distances(assignment.tasks) if assignment.baseline is None else []
    pieces: list[Piece] = [*batches(missing, size=assignment.recipe.run.generate.batch_size), *measured]
    done, kl = 0, dict.fromkeys((piece.name for piece in measured), 0.0)
    for piece, found in workers(assignment, pieces) if pieces else ():
        for result in found.results:
            log.add(result)
        done += len(found.results)
        if isinstance(piece, MeasureDistance) and found.distance is not None:
            kl[piece.name] = found.distance
        on_progress(done, len(missing))
    return kl


def _identity(model: Student, *, baseline: Baseline) -> dict[str, object]:
    """What decides the images. The choice of cases isn't part of it."""
    return {
        "model": identity(str(model.folder.absolute())),
        "generation": digest(fingerprint.generation(model.recipe)),
        "settings": model.recipe.generate.model_dump(mode="json", exclude={"states"}),
        "baseline": identity(str(baseline.folder.absolute())) if baseline.folder else baseline.name,
    }
