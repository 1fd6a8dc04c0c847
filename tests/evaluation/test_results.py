"""The results log: what was added comes back, a kill costs one line at most, and nothing foreign gets in."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.result_cases import case
from x2i_platform.errors import StoreError, X2IError
from x2i_platform.evaluation.results import ResultLog

FINGERPRINT = {"model": "abc", "recipe": {"steps": 8, "taps": (1, 2)}, "suites": ["english"]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report" / "results.jsonl"


def write(path: Path, *numbers: int) -> None:
    with ResultLog.open(path, fingerprint=FINGERPRINT) as log:
        for number in numbers:
            log.add(case(number))


def keys(path: Path) -> list[str]:
    with ResultLog.open(path, fingerprint=FINGERPRINT) as log:
        return list(log.results)


def test_results_come_back_as_they_were(path: Path) -> None:
    unjudged = case(1, right=None, baseline_right=None, psnr=None, ssim=None, split="all", states="")
    written = [case(prompt="一个\u2028“红”圆\n", reason="no circle"), unjudged, case(2, group="clip-7", seconds=3)]
    with ResultLog.open(path, fingerprint=FINGERPRINT) as log:
        for result in written:
            log.add(result)
        assert list(log.results.values()) == written
    with ResultLog.open(path, fingerprint=FINGERPRINT) as log:
        assert list(log.results.values()) == written


def test_a_log_from_before_there_were_compositions_is_read(path: Path) -> None:
    write(path, 0)
    header, line = path.read_text().splitlines()
    old = {name: value for name, value in json.loads(line).items() if name != "composition"}
    path.write_text(f"{header}\n{json.dumps(old)}\n")
    with ResultLog.open(path, fingerprint=FINGERPRINT) as log:
        log.add(case(1, composition="novel pair"))
        assert [result.composition for result in log.results.values()] == ["", "novel pair"]
    assert keys(path) == ["english/0", "english/1"]


def test_a_second_run_adds_to_the_first(path: Path) -> None:
    write(path, 0, 1)
    write(path, 2)
    assert keys(path) == ["english/0", "english/1", "english/2"]


def test_a_result_is_in_the_file_before_the_next_is_drawn(path: Path) -> None:
    with ResultLog.open(path, fingerprint=FINGERPRINT) as log:
        log.add(case(0))
        assert json.loads(path.read_text().splitlines()[-1])["key"] == "english/0"


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_cut_off_and_drawn_again(path: Path, cut: int) -> None:
    write(path, 0, 1)
    path.write_bytes(path.read_bytes()[:-cut])
    assert keys(path) == ["english/0"]
    write(path, 1)
    assert keys(path) == ["english/0", "english/1"]
    assert [len(json.loads(line)) for line in path.read_text().splitlines()] == [2, 16, 16]


@pytest.mark.parametrize("left", [0, 1, 10])
def test_a_torn_header_begins_anew(path: Path, left: int) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:left])
    write(path, 0)
    assert keys(path) == ["english/0"]


def test_a_key_is_there_once(path: Path) -> None:
    write(path, 0)
    with (
        ResultLog.open(path, fingerprint=FINGERPRINT) as log,
        pytest.raises(ValueError, match="'english/0' is there already"),
    ):
        log.add(case(0, right=False))
    assert keys(path) == ["english/0"]
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(StoreError, match=r"results.jsonl:3: result 'english/0' is there twice"):
        keys(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "xyz"}, "model: 'abc' in the report, 'xyz' asked for"),
        ({"recipe": {"steps": 4, "taps": [1, 2]}}, "recipe.steps: 8"),
        ({"suites": ["english", "german"]}, "suites: ['english']"),
        ({"baseline": "teacher"}, "baseline: None"),
    ],
)
def test_another_evaluation_is_refused_and_the_fields_are_named(path: Path, change: dict[str, Any], named: str) -> None:
    write(path, 0)
    before = path.read_bytes()
    with pytest.raises(X2IError) as refused:
        ResultLog.open(path, fingerprint=FINGERPRINT | change)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("no json", "line"),
        ('{"key": "a"}', "suite"),
        ("", "line"),
    ],
)
def test_a_damaged_line_that_is_whole_is_an_error_that_names_it(path: Path, line: str, named: str) -> None:
    write(path, 0)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(StoreError, match=rf"results.jsonl:3: damaged result, {named}: "):
        keys(path)


@pytest.mark.parametrize("first", ["hello", "[]", '{"format": 1}', '{"format": 99, "fingerprint": {}}'])
def test_a_foreign_file_is_left_alone(path: Path, first: str) -> None:
    path.parent.mkdir()
    path.write_text(first + "\n")
    with pytest.raises(StoreError):
        keys(path)
    assert path.read_text() == first + "\n"


@pytest.mark.parametrize("change", [{"psnr": math.inf}, {"ssim": math.nan}, {"split": "train"}, {"seed": 1.5}])
def test_what_could_not_be_read_back_is_not_written(path: Path, change: dict[str, Any]) -> None:
    with ResultLog.open(path, fingerprint=FINGERPRINT) as log, pytest.raises(ValueError):
        log.add(case(0, **change))
    assert keys(path) == []


def test_a_log_has_one_writer_at_a_time(path: Path) -> None:
    with ResultLog.open(path, fingerprint=FINGERPRINT), pytest.raises(StoreError, match="being written by another"):
        ResultLog.open(path, fingerprint=FINGERPRINT)
    write(path, 0)


def test_a_kill_in_the_middle_of_writing_loses_no_whole_line(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.evaluation.result_cases import case\n"
        "from x2i_platform.evaluation.results import ResultLog\n"
        f"log = ResultLog.open(Path(sys.argv[1]), fingerprint={FINGERPRINT!r})\n"
        "for number in range(10**9):\n"
        "    log.add(case(number)); print(number, flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(50)]
        child.send_signal(signal.SIGKILL)
        told += [int(line) for line in child.stdout.read().split("\n")[:-1]]
    found = keys(path)
    assert found == [f"english/{number}" for number in range(len(found))]
    assert len(found) in (len(told), len(told) + 1)
