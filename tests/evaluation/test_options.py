"""The words of `evaluate`: what they become, and one line for those that can't be right, before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import cli
from x2i_platform.errors import ConfigError
from x2i_platform.evaluation.options import Options, parsed_options


def read(**words: Any) -> Options:
    nothing = {"suites": None, "states": None, "cases": 200, "prompts": None, "images": 4, "layout": None, "gate": None}
    return parsed_options(**{**nothing, **words})


def test_no_words_ask_for_everything_and_no_gate() -> None:
    chosen = read()
    assert chosen.suites == (), "the default ones"
    assert chosen.states == ("prompt", "answer")
    assert chosen.splits == ("held_out", "seen")
    assert chosen.max_drop is None


def test_a_word_said_twice_counts_once_and_order_is_kept() -> None:
    chosen = read(suites=["video", "english", "video"], states=["answer", "answer"])
    assert (chosen.suites, chosen.states) == (("video", "english"), ("answer",))


@pytest.mark.parametrize(
    ("gate", "share"),
    [("max_drop=0.01", 0.01), ("max_drop=.5", 0.5), ("max_drop=0", 0.0), ("max_drop=1", 1.0), ("max_drop=1.0", 1.0)],
)
def test_a_gate_is_a_share(gate: str, share: float) -> None:
    assert read(gate=gate).max_drop == share


@pytest.mark.parametrize(
    "gate", ["max_drop", "max_drop=", "max_drop=-1", "max_drop=1%", "drop=0.1", "0.01", "max_drop=."]
)
def test_a_malformed_gate_is_shown_a_right_one(gate: str) -> None:
    with pytest.raises(ConfigError, match=r"is malformed; use max_drop=SHARE, such as max_drop=0\.01"):
        read(gate=gate)


def test_a_gate_of_percents_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gate 'max_drop=5': a share is from 0 to 1; .* max_drop=0\.01"):
        read(gate="max_drop=5")


def test_a_gate_needs_the_suite_it_is_of() -> None:
    assert read(suites=["german", "english"], gate="max_drop=0.1").max_drop == 0.1
    with pytest.raises(ConfigError, match="a gate is of suite 'english'; add --suite english"):
        read(suites=["german"], gate="max_drop=0.1")


def test_a_layout_takes_as_many_images_as_its_scorer() -> None:
    assert read(prompts="p.txt", layout="dpg").layout == "dpg"
    assert read(prompts="p.txt", layout="geneval", images=1).images == 1
    with pytest.raises(ConfigError, match="layout 'dpg' takes 4 images of each prompt, not 2"):
        read(prompts="p.txt", layout="dpg", images=2)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--suite", "klingon"], "suite 'klingon' is unknown; there are english"),
        (["--states", "all"], "states 'all' is unknown; there are prompt, answer, both"),
        (["--prompts", "p.txt", "--layout", "coco"], "layout 'coco' is unknown; there are geneval, dpg"),
        (["--gate", "max_drop=1%"], "gate 'max_drop=1%' is malformed; use max_drop=SHARE"),
        (["--suite", "english", "--prompts", "p.txt"], "either suites or a file of prompts, not both"),
        (["--layout", "dpg"], "name one with --prompts"),
        (["--prompts", "p.txt", "--gate", "max_drop=0.1"], "nothing here can judge a file of prompts"),
        (["--cases", "0"], "Invalid value for '--cases'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], part: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["x2i-platform", "evaluate", "no-model", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    [line] = printed.err.splitlines()
    assert line.startswith("error: ")
    assert part in line
    assert list(tmp_path.iterdir()) == []
