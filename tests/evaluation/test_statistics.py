"""The figures: counted by hand, checked against formulas, and intervals that hold the truth as often as they say."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.result_cases import case, outcomes
from x2i_platform.errors import ConfigError
from x2i_platform.evaluation.statistics import Figures, GateVerdict, gate, paired_interval, summarise, wilson_interval


def interval(differences: list[int]) -> tuple[float, float]:
    """The interval of independent pairs."""
    found = paired_interval(differences, groups=[str(place) for place in range(len(differences))])
    assert found is not None
    return found


@pytest.mark.parametrize(("right", "cases"), [(0, 10), (3, 10), (10, 10), (481, 500), (1, 1)])
def test_wilson_is_the_published_formula(right: int, cases: int) -> None:
    z, share = 1.959963984540054, right / cases
    centre = (share + z**2 / (2 * cases)) / (1 + z**2 / cases)
    half = z / (1 + z**2 / cases) * math.sqrt(share * (1 - share) / cases + z**2 / (4 * cases**2))
    assert wilson_interval(right, cases=cases) == pytest.approx((centre - half, centre + half), abs=1e-9)


@pytest.mark.parametrize(("num_cases", "won", "lost"), [(30, 0.0, 0.05), (100, 0.02, 0.02), (300, 0.05, 0.1)])
def test_the_interval_holds_the_truth_as_often_as_it_says(num_cases: int, won: float, lost: float) -> None:
    random = np.random.default_rng(7)
    held, too_high = 0, 0
    for _ in range(200):
        differences = random.choice([1, -1, 0], p=[won, lost, 1 - won - lost], size=num_cases)
        low, high = interval(differences.tolist())
        held += low <= won - lost <= high
        too_high += low > won - lost
    # Three standard errors of 200 draws around 95 % and 2.5 %.
    assert held >= 0.95 * 200 - 10
    assert too_high <= 0.025 * 200 + 7


def test_at_a_thousand_cases_the_interval_is_that_of_the_normal_approximation() -> None:
    differences = [1] * 50 + [-1] * 100 + [0] * 850
    half = 1.96 * math.sqrt((0.15 - 0.05**2) / 1000)
    assert interval(differences) == pytest.approx((-0.05 - half, -0.05 + half), abs=0.003)


def test_a_few_cases_that_agree_are_not_certain() -> None:
    few, many = interval([0] * 20), interval([0] * 2000)
    assert few[0] < -0.05 and few[1] > 0.05
    assert -0.005 < many[0] <= 0 <= many[1] < 0.005


def test_seeds_of_one_prompt_are_no_further_evidence() -> None:
    differences = [1] * 10 + [-1] * 30 + [0] * 160
    alone = interval(differences)
    fourfold = paired_interval(differences * 4, groups=[str(place) for place in range(200)] * 4)
    as_if_apart = interval(differences * 4)
    assert fourfold == pytest.approx(alone, abs=0.005)
    assert as_if_apart[1] - as_if_apart[0] < 0.6 * (alone[1] - alone[0])


def test_one_prompt_alone_has_no_interval() -> None:
    assert paired_interval([1, 0, 1], groups=["a", "a", "a"]) is None
    assert paired_interval([], groups=[]) is None


def test_the_interval_is_the_same_each_time_and_mirrors_the_sides() -> None:
    differences = [1] * 7 + [-1] * 3 + [0] * 90
    assert interval(differences) == interval(differences[::-1])
    low, high = interval([-step for step in differences])
    assert (-high, -low) == pytest.approx(interval(differences), abs=0.011)


def test_twenty_thousand_cases_take_no_time() -> None:
    differences = np.random.default_rng(0).choice([1, -1, 0], size=20_000).tolist()
    started = time.process_time()
    interval(differences)
    assert time.process_time() - started < 2


def test_a_suite_is_summed_up_and_split_by_category() -> None:
    results = [
        case(0, category="colours", psnr=10.0, seconds=1.0),
        case(1, category="colours", right=False, psnr=None),
        case(2, category="counting", baseline_right=False, psnr=30.0, ssim=0.5),
        case(3, category="counting", right=False, baseline_right=False, psnr=20.0, seconds=2.0),
    ]
    total, colours, counting = summarise(results)
    assert [row.category for row in (total, colours, counting)] == ["all", "colours", "counting"]
    assert (total.cases, total.pairs, total.gained, total.lost) == (4, 4, 1, 1)
    assert (total.accuracy, total.baseline_accuracy, total.difference) == (0.5, 0.5, 0.0)
    assert (total.psnr, total.ssim, total.seconds_per_image) == pytest.approx((20.0, 0.725, 1.0))
    assert (colours.accuracy, colours.baseline_accuracy, colours.difference) == (0.5, 1.0, -0.5)
    assert (counting.gained, counting.lost, counting.difference) == (1, 0, 0.5)
    assert total.accuracy_low is not None and total.difference_low is not None
    assert total.accuracy_low < 0.5 < (total.accuracy_high or 0)
    assert total.difference_low < 0 < (total.difference_high or 0)


def test_compositions_are_rows_beside_the_categories_in_the_order_they_come() -> None:
    results = [
        case(0, category="single", composition="novel pair"),
        case(1, category="count", composition="novel count", right=False),
        case(2, category="binding", composition="novel pair", right=False),
        case(3, category="single", composition="novel pair"),
        case(4, category="single", split="seen"),
    ]
    rows = summarise(results)
    assert [(row.split, row.category, row.composition, row.cases) for row in rows] == [
        ("held_out", "all", "", 4),
        ("held_out", "single", "", 2),
        ("held_out", "count", "", 1),
        ("held_out", "binding", "", 1),
        ("held_out", "", "novel pair", 3),
        ("held_out", "", "novel count", 1),
        ("seen", "all", "", 1),
        ("seen", "single", "", 1),
    ]
    assert rows[4].accuracy == pytest.approx(2 / 3)
    assert rows[4].baseline_accuracy == 1
    assert rows[4].difference == pytest.approx(-1 / 3)
    assert not gate(rows, max_drop=0.5).holds and "over 4 cases" in gate(rows, max_drop=0.5).reason


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    english = outcomes(20, gained=3, lost=5)
    german = outcomes(10, lost=2, suite="german")
    assert summarise(english) == [row for row in summarise(german + english) if row.suite == "english"]


def test_rows_come_in_the_order_of_suites_then_splits_then_first_results() -> None:
    results = [
        case(0, suite="video", split="seen"),
        case(1, suite="english", split="seen"),
        case(2, suite="video", states="answer"),
        case(3, suite="video", states="prompt"),
        case(4, suite="english"),
    ]
    assert [(row.suite, row.split, row.states) for row in summarise({each.key: each for each in results})] == [
        ("video", "held_out", "answer"),
        ("video", "held_out", "prompt"),
        ("video", "seen", "prompt"),
        ("english", "held_out", "prompt"),
        ("english", "seen", "prompt"),
    ]


def test_without_a_judge_there_is_no_accuracy() -> None:
    [row] = summarise([case(i, right=None, baseline_right=None) for i in range(3)])
    assert (row.cases, row.pairs, row.psnr) == (3, 0, 20.0)
    assert row.accuracy is row.accuracy_low is row.baseline_accuracy is row.difference is row.difference_low is None


def test_cases_judged_for_one_side_alone_enter_no_difference() -> None:
    [row] = summarise([case(0), case(1, right=False), case(2, right=False, baseline_right=None)])
    assert (row.cases, row.pairs, row.difference) == (3, 2, -0.5)
    assert row.accuracy == pytest.approx(1 / 3)


def test_a_group_named_is_the_group_used() -> None:
    # One text over many pictures: grouped by the text, they'd be one case.
    same_text = [replace(each, prompt="what is it?") for each in outcomes(90, lost=10)]
    [by_text] = summarise(same_text)
    [by_picture] = summarise([replace(each, group=each.key) for each in same_text])
    assert by_text.difference_low is None
    assert by_picture.difference_low is not None and by_picture.difference_low < -0.1 < -0.01


def test_no_results_are_no_rows_and_a_category_cannot_be_the_sum() -> None:
    assert summarise([]) == []
    with pytest.raises(ValueError, match="can't be called 'all'"):
        summarise([case(0, category="all")])


def row_with(low: float | None, *, suite: str = "english", states: str = "prompt") -> Figures:
    [row] = summarise(outcomes(50, lost=1, suite=suite, states=states))
    return replace(row, difference_low=low)


@pytest.mark.parametrize(
    ("low", "max_drop", "holds"),
    [
        (-0.01, 0.01, True),
        (-0.010000000000000002, 0.01, True),
        (-0.0101, 0.01, False),
        (0.0, 0.0, True),
        (-1e-6, 0.0, False),
        (0.2, 0.0, True),
        (-1.0, 1.0, True),
        (None, 1.0, False),
    ],
)
def test_the_gate_holds_where_the_whole_interval_is_above_the_drop(
    low: float | None, max_drop: float, holds: bool
) -> None:
    assert gate([row_with(low)], max_drop=max_drop).holds is holds


def test_the_verdict_says_what_decided() -> None:
    verdict = gate([row_with(-0.03)], max_drop=0.01)
    assert verdict == GateVerdict(
        False,
        "english (held_out, prompt): student − baseline is −1.96 points over 51 cases, "
        f"95 % interval −3.00 to {100 * (row_with(0).difference_high or 0):+.2f}, "
        "its lower end is beyond the allowed drop of 1.00",
        "english",
        "held_out",
        0.01,
    )


def test_few_cases_do_not_pass_by_agreeing() -> None:
    assert not gate(summarise(outcomes(30)), max_drop=0.01).holds
    assert gate(summarise(outcomes(1000)), max_drop=0.01).holds


def test_a_worse_student_fails_and_a_better_one_passes() -> None:
    assert not gate(summarise(outcomes(900, lost=60, gained=40)), max_drop=0.01).holds
    assert gate(summarise(outcomes(900, lost=40, gained=60)), max_drop=0.01).holds


def test_all_states_of_the_suite_must_hold_unless_one_is_named() -> None:
    rows = [row_with(0.0, suite="image"), row_with(-0.5, suite="image", states="answer")]
    both = gate(rows, max_drop=0.01, suite="image")
    assert not both.holds
    assert "image (held_out, answer)" in both.reason and "image (held_out, prompt)" not in both.reason
    assert gate(rows, max_drop=0.01, suite="image", states="prompt").holds


def test_what_was_not_evaluated_or_not_judged_does_not_hold() -> None:
    missing = gate([row_with(0.0, suite="german")], max_drop=0.01)
    assert not missing.holds
    assert missing.reason == "english (held_out) was not evaluated; there is german (held_out)"
    assert "there is nothing" in gate([], max_drop=0.01).reason
    partly = gate(summarise([*outcomes(1000), case(1000, right=None)]), max_drop=0.01)
    assert not partly.holds
    assert "only 1000 of 1001 cases were judged" in partly.reason


@pytest.mark.parametrize("max_drop", [-0.01, 1.5, math.nan])
def test_a_drop_that_is_no_share_is_refused(max_drop: float) -> None:
    with pytest.raises(ConfigError, match="share from 0 to 1"):
        gate([], max_drop=max_drop)
