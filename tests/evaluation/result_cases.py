"""Results to test with, one line each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from x2i_platform.evaluation.results import Result

_CASE = Result(
    key="english/0",
    suite="english",
    split="held_out",
    states="prompt",
    category="",
    prompt="a red circle",
    seed=0,
    right=True,
    reason="",
    baseline_right=True,
    baseline_reason="",
    psnr=20.0,
    ssim=0.8,
    seconds=0.5,
)


def case(number: int = 0, **changes: Any) -> Result:
    """A case that student and baseline got right, of a prompt of its own; `changes` say what else is true of it."""
    suite = changes.get("suite", "english")
    return replace(_CASE, **{"key": f"{suite}/{number}", "prompt": f"prompt {number}", **changes})


def outcomes(both: int, *, gained: int = 0, lost: int = 0, neither: int = 0, **changes: Any) -> list[Result]:
    """So many cases of each outcome of a pair, each of its own prompt."""
    pairs = [(True, True)] * both + [(True, False)] * gained + [(False, True)] * lost + [(False, False)] * neither
    return [case(i, right=s, baseline_right=b, **changes) for i, (s, b) in enumerate(pairs)]
