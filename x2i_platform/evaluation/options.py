"""Options of `x2i-platform evaluate`, parsed and checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from x2i_platform.config import States
from x2i_platform.errors import ConfigError
from x2i_platform.evaluation.layouts import GRID_IMAGES
from x2i_platform.mini.suites import SUITES

Split = Literal["held_out", "seen", "all"]
Layout = Literal["geneval", "dpg"]
STATES: tuple[States, ...] = get_args(States)
DEFAULT_STATES: tuple[States, ...] = ("prompt", "answer")
"""AlignNet learns from these; from `both` together only if it is asked for."""
GATE = re.compile(r"max_drop=([0-9]*\.?[0-9]+)")
GATE_SUITE = "english"


@dataclass(frozen=True)
class Options:
    """What is evaluated."""

    suites: tuple[str, ...] = ()
    """Suites of the miniature world; empty means `DEFAULT_SUITES`."""
    splits: tuple[Split, ...] = ("held_out", "seen")
    states: tuple[States, ...] = DEFAULT_STATES
    cases: int = 200
    """Prompts of each suite and split; a scene of suite `robustness` has one of each kind."""
    prompts: str | None = None
    """A file of prompts in place of the suites."""
    images: int = 4
    """Images per prompt of a file."""
    layout: Layout | None = None
    max_drop: float | None = None
    """Share of cases by which the model may be worse than its baseline; None means no gate."""


def parsed_options(
    *,
    suites: Sequence[str] | None,
    states: Sequence[str] | None,
    cases: int,
    prompts: str | None,
    images: int,
    layout: str | None,
    gate: str | None,
) -> Options:
    """Parse the options. Raises ConfigError for an unknown word, or for two that don't go together."""
    for what, words, known in (
        ("suite", suites, SUITES),
        ("states", states, STATES),
        ("layout", [layout] if layout else None, get_args(Layout)),
    ):
        for word in words or ():
            if word not in known:
                raise ConfigError(f"{what} {word!r} is unknown; there are {', '.join(known)}")
    _require_fitting(suites=suites, prompts=prompts, images=images, layout=layout, gate=gate)
    return Options(
        suites=tuple(dict.fromkeys(suites or ())),
        states=cast(tuple[States, ...], tuple(dict.fromkeys(states or DEFAULT_STATES))),
        cases=cases,
        prompts=prompts,
        images=images,
        layout=cast(Layout | None, layout),
        max_drop=_max_drop(gate) if gate else None,
    )


def _require_fitting(
    *, suites: Sequence[str] | None, prompts: str | None, images: int, layout: str | None, gate: str | None
) -> None:
    if suites and prompts:
        raise ConfigError("either suites or a file of prompts, not both")
    if layout and not prompts:
        raise ConfigError(f"layout '{layout}' is of a file of prompts; name one with --prompts")
    if layout == "dpg" and images != GRID_IMAGES:
        raise ConfigError(f"layout 'dpg' takes {GRID_IMAGES} images of each prompt, not {images}")
    if gate and prompts:
        raise ConfigError(
            "a gate needs a judge, and nothing here can judge a file of prompts; leave out one of the two"
        )
    if gate and suites and GATE_SUITE not in suites:
        raise ConfigError(f"a gate is of suite '{GATE_SUITE}'; add --suite {GATE_SUITE}")


def _max_drop(gate: str) -> float:
    limit = GATE.fullmatch(gate)
    if limit is None:
        raise ConfigError(f"gate {gate!r} is malformed; use max_drop=SHARE, such as max_drop=0.01")
    share = float(limit.group(1))
    if share > 1:
        raise ConfigError(f"gate {gate!r}: a share is from 0 to 1; one percentage point is max_drop=0.01")
    return share
