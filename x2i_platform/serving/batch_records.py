"""The record of a batch: what is kept of it, what a client is shown, and what its runner is told. Values alone."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

from x2i_platform.serving.batch_lines import Refusal
from x2i_platform.serving.pinned import Pinned

Status = Literal["validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled", "expired"]
Ending = Literal["completed", "cancelled", "expired"]
FINISHED = ("completed", "failed", "cancelled", "expired")


@dataclass
class Batch:
    """A batch. The model is decided when it is validated, and stays when an alias moves."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    status: Status = "validating"
    model: dict[str, Any] | None = None
    """Fields of `Pinned`."""
    ending: Ending | None = None
    """What it will be once its files are written."""
    reserved: dict[str, str] = field(default_factory=dict)
    """Ids of its files, chosen before they are written, so that writing them again changes nothing."""
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: list[dict[str, Any]] | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in FINISHED

    @property
    def pinned(self) -> Pinned | None:
        """The model that makes it, once that is decided."""
        return None if self.model is None else Pinned(**self.model)

    def become(self, status: Status) -> None:
        """Change the status and note when."""
        self.status = status
        if f"{status}_at" in TIMES:
            setattr(self, f"{status}_at", int(time.time()))

    def body(self) -> dict[str, Any]:
        """OpenAI's batch object."""
        pinned = self.pinned
        return {
            **{
                name: getattr(self, name) for name in ("id", "endpoint", "input_file_id", "completion_window", "status")
            },
            **{name: getattr(self, name) for name in TIMES},
            "object": "batch",
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "errors": None if self.errors is None else {"object": "list", "data": self.errors},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
            "model": pinned and pinned.facts["model"],
            "version": pinned and pinned.facts["version"],
        }

    def record(self) -> dict[str, Any]:
        """All fields as JSON values; `Batch(**record)` is the batch again."""
        return asdict(self)


TIMES = tuple(each.name for each in fields(Batch) if each.name.endswith("_at"))


@dataclass(frozen=True)
class BatchTask:
    """What a runner needs to know. Paths are absolute."""

    id: str
    input: str
    out: str
    """Folder of the batch's own for what is made of it."""
    endpoint: str
    model: Pinned


@dataclass(frozen=True)
class RunState:
    """How far a run is, in lines."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    finished: bool = False
    """Every line has been tried."""
    error: str | None = None
    """What ended the run, in the form of `errors.to_text`."""


@dataclass(frozen=True)
class Results:
    """The files of a run, below its folder; None for one without lines."""

    output: Path | None
    errors: Path | None
    completed: int
    failed: int


class Runner(Protocol):
    """Where batches are made. Its methods may block; they are called from threads, for one batch one at a time."""

    def start(self, task: BatchTask) -> None:
        """Begin, or go on where an earlier run ended: images that are there are not made again."""

    def poll(self, batch_id: str) -> RunState | None:
        """How far the run is; None if nobody is at work: it was never started here, or died."""

    def cancel(self, batch_id: str) -> None:
        """End the run, if there is one; what is made stays."""

    def finish(self, task: BatchTask, *, left_out: Refusal) -> Results:
        """Write the output and error files of what is there; lines that nobody made get the refusal `left_out`.

        Raises X2IError if the batch can't be read.
        """
