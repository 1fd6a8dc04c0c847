"""What an evaluation found, for the terminal, for `--json` and for MLflow; the report holds the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from x2i_platform.errors import X2IError
from x2i_platform.evaluation.results import ALL
from x2i_platform.evaluation.statistics import Figures, GateVerdict

METRICS = ("accuracy", "baseline_accuracy", "difference", "difference_low", "difference_high")
"""Figures that a registered model's run gets, for each suite, split and kind of states."""


@dataclass(frozen=True)
class Outcome:
    """Where the report is, and what it says."""

    report: str
    cases: int
    rows: Sequence[Figures]
    verdict: GateVerdict | None

    @property
    def totals(self) -> list[Figures]:
        """One row for each suite, split and kind of states, all categories together."""
        return [row for row in self.rows if row.category == ALL]

    def metrics(self) -> dict[str, float]:
        """Figures by the name that MLflow logs them under."""
        return {
            f"evaluation/{row.suite}/{row.split}/{row.states}/{name}": value
            for row in self.totals
            for name in METRICS
            if (value := getattr(row, name)) is not None
        }

    def summary(self) -> dict[str, object]:
        """Where the report is and what the gate says."""
        gate = {"gate": self.verdict.reason} if self.verdict else {}
        return {"report": self.report, "cases": self.cases, **gate}

    def figures(self) -> list[dict[str, object]]:
        """The rows of `table` as numbers: shares from 0 to 1, null where nothing was judged."""
        names = ("suite", "split", "states", "cases", *METRICS, "psnr")
        return [{name: getattr(row, name) for name in names} for row in self.totals]

    def table(self) -> list[dict[str, str]]:
        """The totals for a terminal."""
        return [
            {
                "suite": f"{row.suite} {row.split.replace('_', ' ')}",
                "states": row.states,
                "right": _percent(row.accuracy),
                "baseline": _percent(row.baseline_accuracy),
                "difference": _points(row),
                "psnr": "" if row.psnr is None else f"{row.psnr:.1f}",
            }
            for row in self.totals
        ]

    def require_gate(self) -> None:
        """Raise X2IError where a gate was asked for and doesn't hold."""
        if self.verdict and not self.verdict.holds:
            raise X2IError(f"gate: {self.verdict.reason}")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _points(row: Figures) -> str:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return ""
    return f"{100 * row.difference:+.1f} ({100 * row.difference_low:+.1f} to {100 * row.difference_high:+.1f})"
