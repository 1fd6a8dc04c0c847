"""Learning curves: readable on both grounds, safe inside a page, and without traces in the process."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from x2i_platform.evaluation.curves import COLOURS, MAX_POINTS, learning_curves

LIGHT, DARK = "#ffffff", "#15171b"
FALLING = [(step, 3.0 / (step + 1)) for step in range(5000)]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("ground", [LIGHT, DARK])
@pytest.mark.parametrize("colour", COLOURS)
def test_lines_stand_out_on_light_and_on_dark(colour: str, ground: str) -> None:
    lighter, darker = sorted((luminance(colour), luminance(ground)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3


def test_all_else_takes_the_colour_of_the_page() -> None:
    svg = learning_curves({"training": FALLING, "validation": [(10, 0.5)]}, title="KL")
    named = set(re.findall(r"(?:fill|stroke): (#\w+|[a-z]+)", svg, flags=re.IGNORECASE))
    assert named == {"none", "currentColor", COLOURS[0], COLOURS[1]}


def test_names_are_text_and_escaped() -> None:
    svg = learning_curves({"<b>&": FALLING, "_loss $x_1$": FALLING}, title='a "title" <i>')
    assert {"<b>&", "\u200b_loss $x_1$", "step"} <= set(texts(svg))
    assert ET.fromstring(svg).get("aria-label") == 'a "title" <i>'


def test_values_over_decades_are_on_a_logarithmic_axis() -> None:
    assert {"0.001", "0.01", "0.1", "1"} <= set(texts(learning_curves({"a": FALLING}, title="KL")))
    assert "0.001" not in texts(learning_curves({"a": [(0, 0.0), (1, 3.0)]}, title="KL"))


def test_long_curves_are_thinned_and_broken_ones_drawn() -> None:
    svg = learning_curves({"a": [(step, math.sin(step)) for step in range(100_000)]}, title="a")
    assert len(re.findall(r"\n?L ", svg)) < MAX_POINTS + 100
    broken = learning_curves({"a": [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]}, title="a")
    assert "nan" not in broken.lower()
    assert learning_curves({}, title="nothing").startswith("<svg")
    assert learning_curves({"a": []}, title="nothing").startswith("<svg")


def test_panels_of_one_page_share_no_ids_and_no_style() -> None:
    panels = [learning_curves({"a": FALLING}, title=title) for title in ("one", "two")]
    ids = [name for panel in panels for name in re.findall(r'\bid="([^"]+)"', panel)]
    assert ids and len(ids) == len(set(ids))
    assert not any("<style" in panel or "<?xml" in panel for panel in panels)
    for panel in panels:
        assert set(re.findall(r"url\(#([^)]+)\)", panel)) <= set(re.findall(r'\bid="([^"]+)"', panel))


def test_drawing_is_repeatable_and_leaves_no_state() -> None:
    before = dict(mpl.rcParams)
    assert learning_curves({"a": FALLING}, title="a") == learning_curves({"a": FALLING}, title="a")
    assert dict(mpl.rcParams) == before
    code = "import sys, x2i_platform.evaluation.curves as c; c.learning_curves({}, title=''); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "matplotlib.pyplot" not in done.stdout.split()
