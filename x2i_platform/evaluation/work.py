"""An evaluation cut into pieces that any worker can do: batches to draw, and distances to measure.

Invariant: a piece is plain values, so that it can be sent as JSON; what it means depends on the assignment alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from x2i_platform.config import States
from x2i_platform.evaluation.evaluator import Assignment, Evaluator
from x2i_platform.evaluation.options import STATES
from x2i_platform.evaluation.results import Result
from x2i_platform.evaluation.tasks import Task

DISTANCE_CAPTIONS = 64
"""English captions that the distance between the attention outputs of student and teacher is averaged over."""


@dataclass(frozen=True)
class DrawBatch:
    """Draw some tasks, named by their places in the assignment."""

    tasks: tuple[int, ...]


@dataclass(frozen=True)
class MeasureDistance:
    """Measure the attention distance over some English captions."""

    captions: tuple[str, ...]
    states: States

    @property
    def name(self) -> str:
        """What the report calls it."""
        return f"{self.states} states of {len(self.captions)} English captions"


@dataclass(frozen=True)
class Found:
    """What came of a piece: results, or a distance."""

    results: Sequence[Result] = ()
    distance: float | None = None


FOUND = TypeAdapter(Found)
"""What came of a piece, to JSON and back."""
Piece = DrawBatch | MeasureDistance
Workers = Callable[[Assignment, Sequence[Piece]], Iterator[tuple[Piece, Found]]]
"""Does pieces of an assignment in any order."""


def batches(tasks: Iterable[int], *, size: int) -> list[DrawBatch]:
    """Places of tasks as batches of at most `size`, in order."""
    places = list(tasks)
    return [DrawBatch(tuple(places[start : start + size])) for start in range(0, len(places), size)]


def distances(tasks: Sequence[Task]) -> list[MeasureDistance]:
    """One for each kind of states that some English task is drawn by."""
    english = [task for task in tasks if task.prompt == task.english]
    captions = {
        kind: tuple(dict.fromkeys(task.english for task in english if task.states == kind))[:DISTANCE_CAPTIONS]
        for kind in STATES
    }
    return [MeasureDistance(found, kind) for kind, found in captions.items() if found]


def do_piece(evaluator: Evaluator, piece: Piece, *, tasks: Sequence[Task]) -> Found:
    """Draw or measure. Raises what the generator raises for a prompt it can't take."""
    if isinstance(piece, DrawBatch):
        return Found(results=evaluator.draw([tasks[place] for place in piece.tasks]))
    return Found(distance=evaluator.attention_distance(piece.captions, states=piece.states))


def in_this_process(assignment: Assignment, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Found]]:
    """Do the pieces one by one, without a cluster."""
    evaluator = Evaluator(assignment)
    for piece in pieces:
        yield piece, do_piece(evaluator, piece, tasks=assignment.tasks)
