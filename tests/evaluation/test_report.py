"""The report: one page that says the figures and runs nothing, and the same as data."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.evaluation.result_cases import case, outcomes
from x2i_platform.evaluation.contact_sheet import contact_sheet
from x2i_platform.evaluation.page import MAX_FAILURES, THUMBNAIL
from x2i_platform.evaluation.report import sheet_files, write
from x2i_platform.evaluation.report_data import Report, Sheet, SheetRow
from x2i_platform.evaluation.results import Result
from x2i_platform.evaluation.statistics import gate, summarise

EVIL = "<script>alert('x')</script> & \"quotes\" <img src=x onerror=y>"
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page's elements and text; refuses elements that are closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def picture(colour: str, side: int = 32) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def report_of(results: list[Result], **changes: Any) -> Report:
    report = Report("shapes 3 against its teacher", {"Model": "shapes 3"}, summarise(results), results)
    return replace(report, **changes)


def written(folder: Path, report: Report) -> tuple[Page, dict[str, Any]]:
    page = write(folder, report)
    assert page == folder / "index.html"
    return Page(page.read_text(encoding="utf-8")), json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_the_page_says_the_figures(tmp_path: Path) -> None:
    results = outcomes(80, gained=4, lost=10, neither=6, category="colours", reason="no circle")
    rows = summarise(results)
    page, _ = written(tmp_path, report_of(results, verdict=gate(rows, max_drop=0.02), kl={"validation": 0.02134}))
    low, high = (
        f"{100 * (end or 0):+.1f}".replace("-", "−") for end in (rows[0].difference_low, rows[0].difference_high)
    )
    for figure in ("84.0 %", "90.0 %", "−6.0", f"{low} to {high}", "4 / 10", "20.0 dB", "0.800", "0.50", "0.0213"):
        assert figure in page.text
    assert "✗ The gate does not hold" in page.text
    assert "allowed drop of 2.00" in page.text
    assert "english, held out, states of the prompt" in page.text
    assert "colours" in page.text


def test_kinds_of_perturbation_and_compositions_have_their_tables(tmp_path: Path) -> None:
    kinds = ("unchanged", "synonym", "misspelling")
    results = [
        replace(one, suite="robustness", category=kind, key=f"{kind}{one.key}", group=one.prompt)
        for kind, lost in zip(kinds, (0, 10, 30), strict=True)
        for one in outcomes(50 - lost, lost=lost)
    ]
    results += outcomes(20, lost=20, composition="novel pair") + outcomes(30, suite="german", composition="novel count")
    page, data = written(tmp_path, report_of(results))
    assert "By category" not in page.text
    by_perturbation, by_composition = page.text.split("By perturbation The same")[1].split("By composition What")
    for kind, share, points in zip(kinds, ("100.0 %", "80.0 %", "40.0 %"), ("0.0", "−20.0", "−60.0"), strict=True):
        [row] = [row for row in data["rows"] if row["category"] == kind]
        low, high = (f"{100 * row[end]:+.1f}".replace("-", "−") for end in ("difference_low", "difference_high"))
        assert f"{kind} {share}" in by_perturbation
        assert f"100.0 % {points} {low} to {high}" in by_perturbation.split(f"{kind} {share}")[1]
        assert kind not in by_composition.split("Failures")[0]
    assert by_perturbation.index("unchanged 100") < by_perturbation.index("synonym 80"), "the control comes first"
    assert "english, held out, states of the prompt" in by_composition and "novel pair 50.0 %" in by_composition
    assert "novel count 100.0 %" in by_composition
    assert "novel" not in by_perturbation


def test_without_compositions_there_is_no_table_of_them(tmp_path: Path) -> None:
    page, _ = written(tmp_path, report_of(outcomes(5, category="colours")))
    assert "By category" in page.text and "By composition" not in page.text and "By perturbation" not in page.text


def test_the_data_is_all_of_it(tmp_path: Path) -> None:
    results = outcomes(3, lost=2)
    verdict = gate(summarise(results), max_drop=0.5)
    sheet = Sheet("english", ("teacher", "student"), [SheetRow("one", (picture("red"), picture("blue")))])
    curves = {"KL": {"training": [(0, 1.0), (10, math.nan)]}}
    _, data = written(
        tmp_path, report_of(results, verdict=verdict, sheets=[sheet], curves=curves, kl={"all": math.inf})
    )
    assert data["schema"] == 1
    assert data["rows"] == [asdict(row) for row in summarise(results)]
    assert [Result(**result) for result in data["results"]] == results
    assert data["verdict"] == asdict(verdict)
    assert data["curves"] == {"KL": {"training": [[0, 1.0], [10, None]]}}
    assert data["kl"] == {"all": None}
    assert data["facts"] == {"Model": "shapes 3"}
    assert data["sheets"] == [
        {"name": "english", "file": "sheets/english.png", "columns": ["teacher", "student"], "captions": ["one"]}
    ]


def test_foreign_text_stays_text(tmp_path: Path) -> None:
    results = [
        case(i, category=EVIL, prompt=EVIL, right=False, reason=EVIL, suite=EVIL, key=f"{EVIL}{i}") for i in (0, 1)
    ]
    sheet = Sheet(EVIL, (EVIL,), [SheetRow(EVIL, (picture("red"),), (True,))])
    curves = {EVIL: {EVIL: [(0, 1.0)]}}
    report = report_of(results, title=EVIL, facts={EVIL: EVIL}, sheets=[sheet], curves=curves, kl={EVIL: 1.0})
    page, _ = written(tmp_path, report)
    assert page.text.count("<script>alert('x')</script>") >= 12
    assert not page.all("script")
    assert all((image["src"] or "").startswith("data:image/") for image in page.all("img"))


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    sheets = [Sheet("a", ("teacher", "student"), [SheetRow("one", (picture("red"), picture("blue")))])]
    curves = {"KL": {"training": [(0, 1.0), (1, 0.5)]}}
    page, _ = written(tmp_path, report_of(outcomes(5, lost=1), sheets=sheets, curves=curves))
    assert {"script", "link", "iframe", "object", "use"} & {tag for tag, _ in page.elements} <= {"use"}
    assert all((use["xlink:href"] or "").startswith("#") for use in page.all("use"))
    [policy] = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"@import|url\((?!#)", text)
    for link in page.all("a"):
        assert (tmp_path / (link["href"] or "?")).is_file()


def test_pictures_lie_in_the_page_small_ones_exactly(tmp_path: Path) -> None:
    small, large = picture("red"), Image.effect_noise((1024, 512), 60).convert("RGB")
    sheet = Sheet("a", ("teacher", "student"), [SheetRow("one", (small, large), (True, False))])
    page, _ = written(tmp_path, report_of([case()], sheets=[sheet]))
    shown = []
    for image in page.all("img"):
        kind, _, content = (image["src"] or "").partition(";base64,")
        shown.append((kind, Image.open(io.BytesIO(base64.b64decode(content)))))
    assert shown[0][0] == "data:image/png"
    assert shown[0][1].tobytes() == small.tobytes()
    assert (shown[1][0], shown[1][1].size) == ("data:image/webp", (THUMBNAIL, THUMBNAIL // 2))
    assert [image["alt"] for image in page.all("img")] == ["teacher: one", "student: one"]
    assert "teacher ✓ right" in page.text and "student ✗ wrong" in page.text
    expected = contact_sheet([("one", (small, large))], columns=("teacher", "student"))
    assert Image.open(tmp_path / "sheets" / "a.png").tobytes() == expected.tobytes()


def test_failures_begin_with_what_was_lost_from_each_suite_in_turn(tmp_path: Path) -> None:
    results = outcomes(2, lost=60, neither=3, reason="no circle")
    results += outcomes(0, lost=2, neither=1, suite="german", reason="kein Kreis")
    page, data = written(tmp_path, report_of(results))
    assert f"The first {MAX_FAILURES} of 66" in page.text
    listed = re.findall(r"seed 0 · (\w+/\d+)", page.text)
    assert len(listed) == MAX_FAILURES
    assert listed[:5] == ["english/2", "german/0", "english/3", "german/1", "english/4"]
    assert "teacher right" in page.text and "student: no circle" in page.text
    assert len(data["results"]) == len(results)


def test_without_failures_judge_or_cases_the_page_says_so(tmp_path: Path) -> None:
    right, _ = written(tmp_path, report_of(outcomes(5)))
    assert "all 5 judged images show their prompts" in right.text
    assert "No gate was asked for" in right.text
    unjudged, _ = written(tmp_path, report_of([case(i, right=None, baseline_right=None) for i in range(3)]))
    assert "Nothing judged these images" in unjudged.text
    nothing, _ = written(tmp_path, report_of([]))
    assert "No case was drawn" in nothing.text


def test_bars_lie_on_one_scale_with_the_gate_on_what_it_gates(tmp_path: Path) -> None:
    results = outcomes(400, lost=40) + outcomes(400, gained=40, suite="german")
    verdict = gate(summarise(results), max_drop=0.05)
    page, _ = written(tmp_path, report_of(results, verdict=verdict))
    bars = [svg for svg in page.all("svg") if (svg.get("class") or "").startswith("bar")]
    assert [bar["class"] for bar in bars] == ["bar worse", "bar better"]
    assert "−20.0 0 +20.0" in page.text
    limits = [line for line in page.all("line") if line["class"] == "limit"]
    assert [line["x1"] for line in limits] == ["75.0"]
    worse, better = (float(circle["cx"] or 0) for circle in page.all("circle"))
    assert worse == pytest.approx(100 - 100 * (40 / 440) / 0.2, abs=0.01)
    assert worse + better == pytest.approx(200, abs=0.02)


def test_a_gate_on_one_kind_of_states_marks_and_heads_the_page_with_that(tmp_path: Path) -> None:
    results = outcomes(400, lost=40, states="prompt") + outcomes(400, states="answer")
    page, _ = written(tmp_path, report_of(results, verdict=gate(summarise(results), max_drop=0.05, states="answer")))
    assert "✓ The gate holds" in page.text
    assert "english, held out, states of the answer, 400 cases" in page.text
    assert [line["class"] for line in page.all("line")].count("limit") == 1


def test_a_second_report_replaces_the_first_and_leaves_no_scraps(tmp_path: Path) -> None:
    written(tmp_path, report_of(outcomes(3)))
    page, data = written(tmp_path, report_of(outcomes(4), title="second", baseline="champion"))
    assert data["title"] == "second" and len(data["results"]) == 4
    assert "Champion right" in page.text and "teacher" not in page.text
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["index.html", "report.json"]


def test_the_old_report_stands_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, report_of(outcomes(3)))
    before = (tmp_path / "index.html").read_bytes()

    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as handle:
            handle.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, report_of(outcomes(4)))
    assert (tmp_path / "index.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "report.json"]


def test_every_sheet_has_a_file_of_its_own() -> None:
    files = sheet_files(["English, held out", "english held-out", "中文", "日本語", "../../etc", "x" * 300])
    assert files[:5] == [
        "sheets/english-held-out.png",
        "sheets/english-held-out-2.png",
        "sheets/sheet.png",
        "sheets/sheet-2.png",
        "sheets/etc.png",
    ]
    assert len(set(files)) == 6 and all(len(file) < 80 for file in files)
