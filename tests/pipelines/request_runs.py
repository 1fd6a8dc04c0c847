"""Runs of `generate` in this process, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb

from pipelines.generate import run
from pipelines.image_folder import GenerationSummary

NO_CLUSTER = "127.0.0.1:1"
"""Passing it proves that a run needed no Ray."""


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def generate(
    model: Path, requests: str, *, out: Path | str, address: str, overrides: tuple[str, ...] = ()
) -> GenerationSummary:
    return run(
        model, requests=requests, out=str(out), overrides=overrides, address=address, on_progress=lambda *_: None
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def index_of(out: Path) -> list[dict[str, Any]]:
    """The rows of an index, as DuckDB reads them."""
    found = duckdb.sql(f"select * from '{out / 'index.parquet'}' order by line")
    assert found is not None
    return list(found.to_arrow_table().to_pylist())
