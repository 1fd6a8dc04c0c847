"""Options that several commands share, and checks of what was typed. Used by the command line alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from x2i_platform.errors import InputError

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a shipped recipe, or a YAML file.")]
ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS, models:/NAME/VERSION, a folder or mini:alignnet.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe value.")]
StoreOption = Annotated[str, typer.Option(help="Feature store: a folder or an s3:// URL.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would happen and what it costs; write nothing.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on, such as auto; default: one on this machine.")]
TrackingUri = Annotated[
    str | None, typer.Option(help="MLflow; default $MLFLOW_TRACKING_URI or sqlite:///mlflow.db in this folder.")
]


def _delimiter(typed: str) -> str:
    """The delimiter; `tab` stands for a tab, which is hard to type."""
    return "\t" if typed in ("tab", "\\t") else typed


_READING = "How captions are read"
Column = Annotated[
    str | None,
    typer.Option(
        help="Column or key that holds the caption; a.b is key b below a; 2 the second column.",
        rich_help_panel=_READING,
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first line of CSV and TSV names the columns.",
        show_default="it does",
        rich_help_panel=_READING,
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        parser=_delimiter,
        metavar="CHARACTER",
        help="Between the fields of CSV and TSV, such as ';' or tab; it makes .txt a table.",
        show_default="a comma in .csv, a tab in .tsv",
        rich_help_panel=_READING,
    ),
]
Quoted = Annotated[
    bool | None,
    typer.Option(
        "--quoted/--literal",
        help="Whether quotes around a field of CSV and TSV belong to the format, or to the text.",
        show_default="to the format in .csv, to the text in .tsv",
        rich_help_panel=_READING,
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        help="Encoding of text, tables and JSON, such as utf-16 or gb18030.",
        show_default="UTF-8",
        rich_help_panel=_READING,
    ),
]
PerFile = Annotated[
    bool | None,
    typer.Option(
        "--per-file/--per-line",
        help="Whether a text file is one caption, or each of its lines.",
        show_default="a file where it is a .caption or lies beside an image of its name",
        rich_help_panel=_READING,
    ),
]


def refuse_empty(words: Sequence[str]) -> None:
    """Raise InputError for an empty value, which an unset shell variable leaves behind."""
    for before, word in pairwise(("x2i-platform", *words)):
        if re.fullmatch(r"--[\w-]+=", word):
            raise InputError(f"{word[:-1]} is empty")
        if not word:
            raise InputError(f"{before} is empty" if before.startswith("-") else f"what follows '{before}' is empty")
