"""The whole flow in miniature, on the trained models that ship: precompute → train → register → evaluate → look.

An AlignNet is trained from scratch on English captions, and then set beside the teacher and beside the AlignNet that
ships: in numbers on scenes that no training has seen, and in pictures for every kind of prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines import RECIPES, evaluate, precompute, train
from x2i_platform.config import Recipe
from x2i_platform.evaluation.contact_sheet import contact_sheet
from x2i_platform.evaluation.evaluator import BaselineGenerator
from x2i_platform.evaluation.options import Options
from x2i_platform.evaluation.outcome import Outcome
from x2i_platform.evaluation.sheets import picture_of
from x2i_platform.evaluation.statistics import Figures
from x2i_platform.evaluation.tasks import Task, suite_tasks
from x2i_platform.evaluation.work import in_this_process
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.mini import captions_path
from x2i_platform.mini.suites import DEFAULT_SUITES
from x2i_platform.models.devices import choose_device
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.prompts import Prompt
from x2i_platform.precompute.captions import Captions
from x2i_platform.progress import Progress, ProgressBar
from x2i_platform.recipes import load
from x2i_platform.registry.models import resolve
from x2i_platform.registry.tracking import check_tracking_uri
from x2i_platform.training.job import prepare

MODEL = "mini-demo"
SHIPPED = "mini:alignnet"
CAPTIONS = 3000
CASES = 300
SHEET_ROWS = 2
"""Scenes of each kind of prompt on the contact sheet."""


@dataclass(frozen=True)
class DemoSummary:
    """Where everything is, and how close the student came."""

    feature_store: str
    captions: int
    mlflow_database: str
    registered_model: str
    held_out_scenes: int
    teacher_right: float
    """Share of the scenes, told in English, that the teacher draws right."""
    student_right: float
    """The same of the AlignNet just trained."""
    shipped_right: float
    """The same of the one that ships."""
    evaluation: str
    contact_sheet: str


def run(
    folder: Path, *, overrides: Sequence[str], bar: ProgressBar, captions: int = CAPTIONS, cases: int = CASES
) -> DemoSummary:
    """Run every step into a folder; each continues where an earlier demo stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = load("mini", shipped=RECIPES, overrides=overrides)
    store, tracking_uri = str(folder / "store"), check_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').absolute()}")
    source = Captions(str(captions_path()), limit=captions)
    with bar("precompute", unit="captions") as progress:
        stored = precompute.run(recipe, source, store=store, address=None, on_progress=progress)
    destination = train.Destination(MODEL, tracking_uri, str(folder / "runs"))
    with bar("train", unit="steps") as progress:
        trained = train.run(prepare(recipe, store=store), destination, address=None, on_progress=progress)
    student, shipped = (resolve(name, tracking_uri=tracking_uri) for name in (trained.alias, SHIPPED))
    with bar("evaluate", unit="images") as progress:
        options = Options(suites=("english",), splits=("held_out",), states=("answer",), cases=cases)
        outcome = _evaluate(trained.model, student, options=options, out=folder / "evaluation", progress=progress)
    evaluate.publish(outcome, model=trained.model, tracking_uri=tracking_uri)
    with bar("evaluate the shipped one", unit="images") as progress:
        theirs = _evaluate(SHIPPED, shipped, options=options, out=folder / "evaluation-shipped", progress=progress)
    return DemoSummary(
        feature_store=store,
        captions=stored.stored,
        mlflow_database=str(folder / "mlflow.db"),
        registered_model=trained.model,
        held_out_scenes=outcome.cases,
        teacher_right=_whole(outcome).baseline_accuracy or 0.0,
        student_right=_whole(outcome).accuracy or 0.0,
        shipped_right=_whole(theirs).accuracy or 0.0,
        evaluation=outcome.report,
        contact_sheet=str(_sheet(recipe, [student, shipped], path=folder / "contact_sheet.png")),
    )


def _evaluate(name: str, folder: Path, *, options: Options, out: Path, progress: Progress) -> Outcome:
    """The teacher and the student, drawn in this process: its models are needed again for the contact sheet."""
    model = evaluate.Student(name, folder, read_recipe(folder))
    return evaluate.run(model, out=out, options=options, workers=in_this_process, on_progress=progress)


def _whole(outcome: Outcome) -> Figures:
    """The figures of all categories together."""
    [row] = outcome.totals
    return row


def _sheet(recipe: Recipe, models: Sequence[Path], *, path: Path) -> Path:
    """Every kind of prompt, drawn by the teacher, by the AlignNet just trained and by the one that ships."""
    device = choose_device(recipe.run.generate.num_gpus)
    tasks = suite_tasks(tuple(DEFAULT_SUITES), count=SHEET_ROWS, splits=("held_out",), states=(recipe.generate.states,))
    students = [Generator.load(each, device=device) for each in models]
    teacher = BaselineGenerator(students[0], other=None, device=device)
    drawn = [teacher.draw(tasks), *(_draw(student, tasks) for student in students)]
    captions = [f"{task.suite}: {task.english}" for task in tasks]
    pictures = zip([_shown(task) for task in tasks], *drawn, strict=True)
    rows = list(zip(captions, pictures, strict=True))
    contact_sheet(rows, columns=["prompt", "teacher", "just trained", "shipped"]).save(path)
    return path


def _draw(student: Generator, tasks: Sequence[Task]) -> list[Image.Image]:
    settings = student.recipe.generate
    drawn = student.generate([ImageRequest(task.prompt, task.seed, settings) for task in tasks])
    return [each.image for each in drawn]


def _shown(task: Task) -> Image.Image:
    """What the student was shown; a blank where it was told."""
    if isinstance(task.prompt, Prompt):
        return picture_of(task.prompt)
    return Image.new("RGB", (64, 64), "white")
