"""All that a report says, before it is laid out."""

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
    """Whether each image is right; shorter than `images`, or None, where nothing says so."""
    gloss: str = ""
    """What a PNG says in place of the caption where its font lacks a letter of it."""


@dataclass(frozen=True)
class Sheet:
    """Pictures to look at under one heading."""

    name: str
    columns: Sequence[str]
    rows: Sequence[SheetRow]


@dataclass(frozen=True)
class Report:
    """All that a report says."""

    title: str
    facts: Mapping[str, str]
    """What was compared, and how: model, recipe, digests, steps, seeds."""
    rows: Sequence[Figures]
    results: Sequence[Result]
    sheets: Sequence[Sheet] = ()
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    """Panels of learning curves: what is on the axis, then name -> [(step, value), …]."""
    kl: Mapping[str, float] = field(default_factory=dict)
    """Mean KL per token, in nats, between the attention outputs of baseline and student, by what it was taken over."""
    verdict: GateVerdict | None = None
    """None: no gate was asked for."""
    baseline: str = "teacher"
    """What the page calls the other side."""
