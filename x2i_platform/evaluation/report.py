"""An evaluation as a folder to decide by: `index.html` to read, `report.json` to compute with, sheets to show around.

    index.html            one page that needs no server, no network and none of the other files
    report.json           all of it as data, every result included
    sheets/NAME.png       each sheet of pictures as one image

Invariants: each file is published whole, the page last; `report.json` is strict JSON, with null for what isn't finite.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from x2i_platform.evaluation.contact_sheet import can_write, contact_sheet
from x2i_platform.evaluation.page import render
from x2i_platform.evaluation.png import save_png
from x2i_platform.evaluation.report_data import Report
from x2i_platform.files import publish

SCHEMA = 1
PAGE_FILE, DATA_FILE, SHEETS_FOLDER = "index.html", "report.json", "sheets"


def write(folder: Path, report: Report) -> Path:
    """Write the report and return the path of its page. Files of an earlier report are replaced."""
    files = sheet_files([sheet.name for sheet in report.sheets])
    for sheet, file in zip(report.sheets, files, strict=True):
        rows = [(row.caption if can_write(row.caption) else row.gloss, row.images) for row in sheet.rows]
        save_png(contact_sheet(rows, columns=sheet.columns), folder / file)
    data = json.dumps(_finite(_data(report, files)), ensure_ascii=False, allow_nan=False)
    publish(folder / DATA_FILE, data.encode())
    publish(folder / PAGE_FILE, render(report, sheet_files=files).encode())
    return folder / PAGE_FILE


def sheet_files(names: Sequence[str]) -> list[str]:
    """A file for each sheet, relative to the report; distinct even where names differ in signs or letter case alone."""
    files: list[str] = []
    for name in names:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "sheet"
        number, file = 1, f"{SHEETS_FOLDER}/{slug}.png"
        while file in files:
            number, file = number + 1, f"{SHEETS_FOLDER}/{slug}-{number + 1}.png"
        files.append(file)
    return files


def _data(report: Report, files: Sequence[str]) -> dict[str, Any]:
    sheets = [
        {
            "name": sheet.name,
            "file": file,
            "columns": list(sheet.columns),
            "captions": [row.caption for row in sheet.rows],
        }
        for sheet, file in zip(report.sheets, files, strict=True)
    ]
    return {
        "schema": SCHEMA,
        "title": report.title,
        "baseline": report.baseline,
        "facts": dict(report.facts),
        "verdict": asdict(report.verdict) if report.verdict else None,
        "rows": [asdict(row) for row in report.rows],
        "kl": dict(report.kl),
        "curves": {
            panel: {name: list(curve) for name, curve in curves.items()} for panel, curves in report.curves.items()
        },
        "sheets": sheets,
        "results": [vars(result) for result in report.results],
    }


def _finite(value: Any) -> Any:
    """The same value with null for numbers that JSON has no word for, such as the loss of a run that diverged."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
