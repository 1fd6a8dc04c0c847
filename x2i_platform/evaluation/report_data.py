"""The content of a report, before layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image

from x2i_platform.evaluation.curves import Curve
from x2i_platform.evaluation.results import Result
from x2i_platform.evaluation.statistics import Figures, GateVerdict


@dataclass(frozen=True)
class SheetRow:
    """One caption and its images, one a column of the sheet."""

    caption: str
    images: Sequence[Image.Image]
    marks: Sequence[bool | None] = ()
    """Whether each image is right; None or missing if it isn't known."""
    gloss: str = ""
    """Caption in PNG sheets if their font lacks a letter of the real one."""


@dataclass(frozen=True)
class Sheet:
    """Pictures to look at under one heading."""

    name: str
    columns: Sequence[str]
    rows: Sequence[SheetRow]


@dataclass(frozen=True)
class Report:
    """The content of a report."""

    title: str
    facts: Mapping[str, str]
    """Facts of the comparison: model, recipe, digests, steps, seeds."""
    rows: Sequence[Figures]
    results: Sequence[Result]
    sheets: Sequence[Sheet] = ()
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    """Panels of learning curves: what is on the axis, then name -> [(step, value), …]."""
    kl: Mapping[str, float] = field(default_factory=dict)
    """Mean KL per token, in nats, between the attention outputs of baseline and student, by the captions it was
    measured on."""
    verdict: GateVerdict | None = None
    """None: no gate was asked for."""
    baseline: str = "teacher"
    """Name of the baseline on the page."""
