"""The loaded models of an evaluation: they draw tasks in batches and measure the student's distance to its teacher.

Invariant: the student and its baseline start from the same noise; the baseline's image of some words and a seed is
drawn once, however many languages say the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from x2i_platform.config import Recipe, States
from x2i_platform.evaluation.images import baseline_file, open_image, student_file
from x2i_platform.evaluation.metrics import psnr, ssim
from x2i_platform.evaluation.png import save_png
from x2i_platform.evaluation.results import Result
from x2i_platform.evaluation.tasks import Task
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.mini.judge import judge
from x2i_platform.models.devices import choose_device
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.training.validation import attention_distance


@dataclass(frozen=True)
class Assignment:
    """What is evaluated, as plain values that can be sent to a worker."""

    recipe: Recipe
    student: Path
    """Folder of the model."""
    baseline: Path | None
    """Folder of the model it is compared with; None for the recipe's teacher."""
    out: Path
    """Folder of the report, which every worker can reach."""
    tasks: Sequence[Task]


class BaselineGenerator:
    """Draws the baseline's images: with the teacher's own text encoders on the same DiT, or with another model."""

    def __init__(self, student: Generator, *, other: Path | None, device: str) -> None:
        self._images = student.images
        self._settings = student.recipe.generate
        self._other = Generator.load(other, device=device) if other else None
        self.encoders = None if other else TextEncoders.load(student.recipe.teacher, device=device)

    def draw(self, tasks: Sequence[Task]) -> list[Image.Image]:
        """One image per task, from its English words."""
        if self.encoders is None:
            assert self._other is not None
            # The other model keeps its own steps and guidance, but only images of one size can be compared.
            size = {"width": self._settings.width, "height": self._settings.height}
            settings = self._other.recipe.generate.model_copy(update=size)
            drawn = self._other.generate([ImageRequest(task.english, task.seed, settings) for task in tasks])
            return [each.image for each in drawn]
        conditioning = self.encoders.encode([task.english for task in tasks])
        return self._images.generate(
            conditioning.prompt_embeds_BTE,
            pooled_BP=conditioning.pooled_BP,
            seeds=[task.seed for task in tasks],
            settings=self._settings,
        )


class Evaluator:
    """Loads the student and its baseline. Raises as `Generator.load` does."""

    def __init__(self, assignment: Assignment) -> None:
        device = choose_device(assignment.recipe.run.generate.num_gpus)
        self.out = assignment.out
        self.student = Generator.load(assignment.student, recipe=assignment.recipe, device=device)
        self.baseline = BaselineGenerator(self.student, other=assignment.baseline, device=device)

    def draw(self, tasks: Sequence[Task]) -> list[Result]:
        """The results of a batch; its images are saved."""
        defaults = self.student.recipe.generate
        began = time.monotonic()
        settings = [defaults.model_copy(update={"states": task.states}) for task in tasks]
        requests = [ImageRequest(task.prompt, task.seed, each) for task, each in zip(tasks, settings, strict=True)]
        images = [each.image for each in self.student.generate(requests)]
        seconds = (time.monotonic() - began) / len(tasks)
        results = []
        for task, image, goal in zip(tasks, images, self._baseline_images(tasks), strict=True):
            save_png(image, self.out / student_file(task))
            results.append(_result(task, image=image, goal=goal, seconds=seconds))
        return results

    def attention_distance(self, captions: Sequence[str], *, states: States) -> float:
        """Mean KL per token between the DiT's attention outputs under the teacher and under the student.

        The baseline must be the teacher. Caption i starts from the noise of seed i.
        """
        assert self.baseline.encoders is not None
        recipe, size = self.student.recipe, self.student.recipe.run.generate.batch_size
        teacher = self.student.images.teacher(recipe.teacher)
        total = 0.0
        for start in range(0, len(captions), size):
            batch = captions[start : start + size]
            seeds = range(start, start + len(batch))
            goal = self.baseline.encoders.encode(batch)
            mine = self.student.encoder.condition(batch, states=states)
            total += len(batch) * attention_distance(mine, goal=goal, teacher=teacher, seeds=seeds, config=recipe.train)
        return total / len(captions)

    def _baseline_images(self, tasks: Sequence[Task]) -> list[Image.Image]:
        missing = {baseline_file(task): task for task in tasks if not (self.out / baseline_file(task)).is_file()}
        if missing:
            for file, image in zip(missing, self.baseline.draw(list(missing.values())), strict=True):
                save_png(image, self.out / file)
        return [open_image(self.out / baseline_file(task)) for task in tasks]


def _result(task: Task, *, image: Image.Image, goal: Image.Image, seconds: float) -> Result:
    verdicts = (judge(image, task.scene), judge(goal, task.scene)) if task.scene else None
    return Result(
        key=task.key,
        suite=task.suite,
        split=task.split,
        states=task.states,
        category=task.category,
        prompt=task.prompt if isinstance(task.prompt, str) else task.english,
        seed=task.seed,
        right=verdicts[0].right if verdicts else None,
        reason=verdicts[0].reason if verdicts else "",
        baseline_right=verdicts[1].right if verdicts else None,
        baseline_reason=verdicts[1].reason if verdicts else "",
        psnr=psnr(image, goal),
        ssim=ssim(image, goal),
        seconds=seconds,
        group=task.group,
        composition=task.composition,
    )
