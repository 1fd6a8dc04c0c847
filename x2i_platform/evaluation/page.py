"""A report as one HTML page. This module computes what the template shows.

Invariants: text from prompts, recipes and judges is escaped; images are inside the page as data; the page fetches and
runs nothing.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from x2i_platform.evaluation.curves import learning_curves
from x2i_platform.evaluation.png import png_bytes
from x2i_platform.evaluation.report_data import Report
from x2i_platform.evaluation.results import ALL, Result
from x2i_platform.evaluation.statistics import Figures, GateVerdict

MAX_FAILURES = 50
THUMBNAIL = 256
"""Longer side in pixels above which an image is scaled down and stored as WebP, so that a page stays mailable."""
PLOT_WIDTH = 200
PERTURBED = "robustness"
"""The suite whose categories are kinds of perturbation."""
SPLITS = {"held_out": "held out", "seen": "seen in training", "all": ""}
STATES = {
    "prompt": "states of the prompt",
    "answer": "states of the answer",
    "both": "states of prompt and answer",
    "": "",
}


@dataclass(frozen=True)
class Interval:
    """A difference as a bar; all bars of a page share one scale. In units of the drawing."""

    point: float
    low: float
    high: float
    allowed: float | None
    """Position of the gate's limit; None for rows that the gate doesn't judge."""
    word: str
    """The interval in a word, which is also the colour's CSS class."""


@dataclass(frozen=True)
class Breakdown:
    """One way to divide suites: the name of its rows, a note for the reader, and which rows belong to it."""

    by: str
    note: str
    holds: Callable[[Figures], bool]


BREAKDOWNS = (
    Breakdown("category", "", lambda row: row.suite != PERTURBED and row.category not in ("", ALL)),
    Breakdown(
        "perturbation",
        "The same scenes in other words of the same meaning, from the same noise; both sides were told the same. "
        "Compare each kind with the one that is unchanged.",
        lambda row: row.suite == PERTURBED and row.category not in ("", ALL),
    ),
    Breakdown(
        "composition",
        "What is new in prompts that hold something no training has shown: a pair of colour and shape, a relation of "
        "two shapes, or such a pair shown several times.",
        lambda row: bool(row.composition),
    ),
)


def render(report: Report, *, sheet_files: Sequence[str]) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("x2i_platform.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(share=_share, points=_points, number=_number, data_uri=data_uri)
    totals = [row for row in report.rows if row.category == ALL]
    failures = _worst_first(report.results)
    span = _span(report.rows, report.verdict)
    page = environment.get_template("report.html.jinja").render(
        report=report,
        totals=totals,
        breakdowns=[(each, parts) for each in BREAKDOWNS if (parts := _parts(report.rows, breakdown=each))],
        headline=[row for row in totals if _is_gated(row, report.verdict)] or totals[:1],
        interval=lambda row: _interval(row, span=span, verdict=report.verdict),
        span=span,
        plot_width=PLOT_WIDTH,
        splits=SPLITS,
        states=STATES,
        part_name=part_name,
        sheets=list(zip(report.sheets, sheet_files, strict=True)),
        failures=failures[:MAX_FAILURES],
        num_failures=len(failures),
        num_judged=sum(result.right is not None for result in report.results),
        panels=[(name, Markup(learning_curves(curves, title=name))) for name, curves in report.curves.items()],
        is_small=lambda image: max(image.size) <= THUMBNAIL,
    )
    # The template's macros come before the page and leave blank lines.
    return page.lstrip()


def data_uri(image: Image.Image) -> str:
    """An image as a URI that holds it: small ones exactly, as PNG; larger ones as WebP thumbnails."""
    if max(image.size) <= THUMBNAIL:
        kind, content = "png", png_bytes(image.convert("RGB"))
    else:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, format="webp", quality=85)
        kind, content = "webp", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def part_name(part: Figures | Result) -> str:
    """A suite as its heading says it: `german, held out, states of the answer`."""
    return ", ".join(filter(None, (part.suite, SPLITS[part.split], STATES[part.states])))


def _parts(rows: Sequence[Figures], *, breakdown: Breakdown) -> list[tuple[str, list[Figures]]]:
    """The rows of a breakdown, suite by suite; a suite that has none is left out."""
    return [(name, list(part)) for name, part in itertools.groupby(filter(breakdown.holds, rows), key=part_name)]


def _worst_first(results: Sequence[Result]) -> list[Result]:
    """The student's failures: first those that the baseline got right, and from each suite in turn."""
    ranks: Counter[tuple[str, bool]] = Counter()
    ranked: list[tuple[bool, int, Result]] = []
    for result in results:
        if result.right is False:
            kind = (part_name(result), result.baseline_right is not True)
            ranked.append((kind[1], ranks[kind], result))
            ranks[kind] += 1
    return [result for *_, result in sorted(ranked, key=lambda item: item[:2])]


def _is_gated(row: Figures, verdict: GateVerdict | None) -> bool:
    if verdict is None or verdict.states not in (None, row.states):
        return False
    return (row.suite, row.split, row.category) == (verdict.suite, verdict.split, ALL)


def _span(rows: Sequence[Figures], verdict: GateVerdict | None) -> float:
    """Half the scale of the bars: the next of 1, 2, 5, 10, … points that holds every interval and the gate's limit."""
    ends = [abs(end) for row in rows for end in (row.difference_low, row.difference_high) if end is not None]
    widest = max([*ends, verdict.max_drop if verdict else 0.0, 0.01])
    tens: float = 10.0 ** math.floor(math.log10(widest))
    return min(1.0, next(step * tens for step in (1, 2, 5, 10) if step * tens >= widest - 1e-12))


def _interval(row: Figures, *, span: float, verdict: GateVerdict | None) -> Interval | None:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return None
    word = "better" if row.difference_low > 0 else "worse" if row.difference_high < 0 else "unclear"
    allowed = -verdict.max_drop if verdict and _is_gated(row, verdict) else None
    place = [
        None if value is None else round((1 + max(-1.0, min(1.0, value / span))) * PLOT_WIDTH / 2, 2)
        for value in (row.difference, row.difference_low, row.difference_high, allowed)
    ]
    assert place[0] is not None and place[1] is not None and place[2] is not None
    return Interval(place[0], place[1], place[2], place[3], word)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _points(value: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return (
        "–" if value is None else f"{100 * value:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")
