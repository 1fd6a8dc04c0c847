"""Learning curves as an SVG that stands inside a page and takes that page's text colour, on light and on dark.

Invariants: no file, no global plotting state; the same curves give the same bytes.
"""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float]]

COLOURS = ("#2f7fc1", "#c8662a", "#2c8f6f", "#a45cc0", "#c24a62", "#7b8089")
"""Line colours; each has a contrast of at least 3 on white and on the page's dark background."""
DASHES = ("-", "--", ":")
"""Dash patterns, used when all colours are used, so that no two of 18 curves look alike."""
MAX_POINTS = 400
"""Curves with more points are thinned evenly: the figure is 340 points wide."""
LOG_RATIO = 50
"""Positive values that span more than this are drawn on a logarithmic axis."""
_TEXT = "#010203"
"""Placeholder for the page's text colour, which Matplotlib can't name."""
_SIZE_INCHES = (4.7, 2.7)
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # A dollar in a name is a dollar.
    "svg.fonttype": "none",  # Text stays text: small, sharp and searchable.
    "text.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "grid.color": _TEXT,
    "grid.alpha": 0.15,
}


def learning_curves(curves: Mapping[str, Curve], *, title: str) -> str:
    """One panel of curves `name -> [(step, value), …]` as an `<svg>` element. Values that aren't finite leave gaps."""
    # The salt keeps the ids that a panel's clip paths and markers have apart from those of the page's other panels.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        looks = itertools.cycle(itertools.product(DASHES, COLOURS))
        for (name, curve), (dash, colour) in zip(curves.items(), looks, strict=False):
            steps, values = _points(curve)
            # A lone point has no line to show it.
            mark = "o" if len(steps) == 1 else ""
            # A leading underscore would keep a name out of the legend.
            label = f"\u200b{name}" if name.startswith("_") else name
            axes.plot(steps, values, label=label, color=colour, linestyle=dash, marker=mark, linewidth=1.6)
        if _spans_wide([value for curve in curves.values() for _, value in curve]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("step")
        axes.grid(True)
        axes.spines[["top", "right"]].set_visible(False)
        if curves:
            figure.legend(loc="outside lower center", ncols=min(3, len(curves)), frameon=False)
        return _element(figure, title)


def _points(curve: Curve) -> tuple[list[float], list[float]]:
    kept: Any = np.unique(np.linspace(0, len(curve) - 1, MAX_POINTS).round().astype(int)) if curve else []
    points = [curve[place] for place in kept]
    return [step for step, _ in points], [value if np.isfinite(value) else float("nan") for _, value in points]


def _spans_wide(values: Sequence[float]) -> bool:
    finite = [value for value in values if np.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > LOG_RATIO * min(finite)


def _element(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_TEXT, "currentColor")
    # A style sheet inside would hold for the whole page, and ids that nothing refers to would be there in every panel.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if f"#{match[1]}" in svg else "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
