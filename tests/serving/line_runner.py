"""A runner of batches without models: it makes a line whenever it is asked how far it is."""

from __future__ import annotations

import json
from pathlib import Path

from x2i_platform.errors import WeightsError, to_text
from x2i_platform.serving.batch_lines import Refusal, read_batch
from x2i_platform.serving.batch_records import BatchTask, Results, RunState
from x2i_platform.serving.pinned import Pinned

PINNED = Pinned("models:/m@champion", "models:/m/3", content="c", base=None)
URL = "/v1/images/generations"


def batch_file(*prompts: str) -> bytes:
    """Lines with ids 0, 1, …."""
    lines = [
        json.dumps({"custom_id": str(place), "method": "POST", "url": URL, "body": {"prompt": prompt}})
        for place, prompt in enumerate(prompts)
    ]
    return "\n".join(lines).encode()


class LineRunner:
    """What is made lies in the task's folder, a file a line. `made` counts over all runners of a test."""

    def __init__(self, made: list[str], *, broken: bool = False, silent: bool = False) -> None:
        self.made, self.broken, self.silent = made, broken, silent
        self.tasks: dict[str, BatchTask] = {}
        self.started: list[str] = []
        self.finished: list[str] = []

    def start(self, task: BatchTask) -> None:
        Path(task.out).mkdir(parents=True, exist_ok=True)
        self.tasks[task.id] = task
        self.started.append(task.id)

    def poll(self, batch_id: str) -> RunState | None:
        if batch_id not in self.tasks:
            return None
        if self.broken:
            return RunState(error=to_text(WeightsError("/secret/folder has no recipe.json")))
        task = self.tasks[batch_id]
        lines = list(read_batch(task.input, names=("m",), endpoint=task.endpoint))
        good = [line for line in lines if line.request]
        waiting = [line for line in good if not Path(task.out, f"{line.custom_id}").exists()]
        if waiting and not self.silent:
            Path(task.out, f"{waiting[0].custom_id}").touch()
            self.made.append(str(waiting.pop(0).custom_id))
        failed = len(lines) - len(good)
        return RunState(len(lines), len(good) - len(waiting), failed, finished=not waiting)

    def cancel(self, batch_id: str) -> None:
        self.tasks.pop(batch_id, None)

    def finish(self, task: BatchTask, *, left_out: Refusal) -> Results:
        self.finished.append(task.id)
        good, bad = [], []
        for line in read_batch(task.input, names=("m",), endpoint=task.endpoint):
            if line.request and Path(task.out, f"{line.custom_id}").exists():
                good.append(line.answered({"data": [line.request.words]}))
            else:
                bad.append(line.refused(line.refusal or left_out))
        paths: list[Path | None] = []
        for name, values in (("output.jsonl", good), ("errors.jsonl", bad)):
            path = Path(task.out, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(value) + "\n" for value in values))
            paths.append(path if values else None)
        return Results(paths[0], paths[1], completed=len(good), failed=len(bad))
