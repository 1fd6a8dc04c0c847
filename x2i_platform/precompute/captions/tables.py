"""Reads text tables: a header line, then records with as many fields.

Invariants: a record with another number of fields is refused, never read as a shorter caption; a misplaced quote
affects only its own line; blank lines and rows of blank fields are skipped.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from x2i_platform.errors import InputError
from x2i_platform.precompute.captions.lines import TOO_LONG, Line, numbered, text_of
from x2i_platform.precompute.captions.records import COLUMNS, MAX_CHARS, Reading, Record, checked, listed, pick

MAX_JOINED_LINES = 1000
"""A quoted field over more lines than this counts as never closed."""
MAX_LITERAL_LINES = 10
"""If quotes are text, quotes on lines further apart than this are unrelated."""
SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
MISPLACED = "a misplaced quote"


@dataclass(frozen=True)
class TableLine:
    """One unchecked record of the file."""

    line: int
    fields: list[str]
    problem: str | None = None


@dataclass(frozen=True)
class Dialect:
    """How fields are separated and quoted."""

    delimiter: str
    quoted: bool | None
    """None means that quotes are text, but a file with a field that looks quoted is refused."""


def read_csv(handle: io.BufferedReader, source: str, reading: Reading) -> Iterator[Record]:
    """Read CSV, by default with commas. Quoted fields may contain commas and line ends."""
    quoted = True if reading.quoted is None else reading.quoted
    return _read(handle, source, reading, Dialect(reading.delimiter or ",", quoted))


def read_tsv(handle: io.BufferedReader, source: str, reading: Reading) -> Iterator[Record]:
    """Read TSV, by default with tabs. By default quotes are text."""
    return _read(handle, source, reading, Dialect(reading.delimiter or "\t", reading.quoted))


def _read(handle: io.BufferedReader, source: str, reading: Reading, dialect: Dialect) -> Iterator[Record]:
    csv.field_size_limit(MAX_CHARS)
    lines = numbered(text_of(handle, source, reading))
    table = _quoted_rows(lines, dialect.delimiter) if dialect.quoted else _literal_rows(lines, source, dialect)
    rows = (row for row in table if row.problem or any(field.strip() for field in row.fields))  # no blank ones
    first = next(rows, None)
    if first is None:
        return
    place = _place(first, source, reading, dialect)
    width = len(first.fields)
    records: Iterator[TableLine] = rows
    if reading.header is False:
        records = itertools.chain([first], rows)
    for row in records:
        if row.problem == TOO_LONG:
            yield Record(source, row.line, None, TOO_LONG)
        elif row.problem or len(row.fields) != width:
            where = "beside a first line" if reading.header is False else "under a header"
            count = len(row.fields)
            counts = f"{count} field{'s' if count != 1 else ''} {where} of {width}"
            yield Record(source, row.line, None, f"{row.problem}; {counts}" if row.problem else counts)
        else:
            yield checked(source, row.line, row.fields[place])


def _literal_rows(lines: Iterator[Line], source: str, dialect: Dialect) -> Iterator[TableLine]:
    """Yield records with quotes as text. Raises InputError if that wasn't asked for and quotes look like CSV's."""
    opened = -MAX_LITERAL_LINES
    for number, line in lines:
        fields = next(csv.reader([line or ""], delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE), [""])
        if any(map(_opens, fields)):
            opened = number
        closed = number - opened < MAX_LITERAL_LINES and any(map(_closes, fields))
        if dialect.quoted is None and (closed or any(map(_doubles, fields))):
            raise InputError(
                f"captions file '{source}', line {opened if closed else number}: a field looks quoted as in CSV; "
                "--quoted reads it so, --literal takes quotes as text"
            )
        yield TableLine(number, fields, TOO_LONG if line is None else None)


def _doubles(field: str) -> bool:
    """Return whether a field is in quotes and has doubled quotes inside."""
    inside = field[1:-1]
    return field[:1] == field[-1:] == '"' and '""' in inside and '"' not in inside.replace('""', "")


def _opens(field: str) -> bool:
    return field.startswith('"') and field.count('"') % 2 == 1


def _closes(field: str) -> bool:
    return field.endswith('"') and field.count('"') % 2 == 1 and (field == '"' or not field.startswith('"'))


def _quoted_rows(lines: Iterator[Line], delimiter: str) -> Iterator[TableLine]:
    """Yield CSV records. If lines joined by a quote make no record, the first is refused and the rest read again."""
    whole, opening = _patterns(delimiter)
    again: deque[Line] = deque()

    def upcoming() -> Line | None:
        return again.popleft() if again else next(lines, None)

    for number, line in iter(upcoming, None):
        if line is None:
            yield TableLine(number, [""], TOO_LONG)
            continue
        joined: list[Line] = [(number, line)]
        if opening.fullmatch(line):
            joined += _until_closed(iter(upcoming, None))
        text = "\n".join(part or "" for _, part in joined)
        if whole.fullmatch(text):
            yield TableLine(number, next(csv.reader([text], delimiter=delimiter), []))
        else:
            again.extendleft(reversed(joined[1:]))
            yield TableLine(number, line.split(delimiter), MISPLACED)


def _until_closed(lines: Iterator[Line]) -> list[Line]:
    """Take the lines of an open quoted field, up to one that may close it: a record has an even number of quotes."""
    taken: list[Line] = []
    chars = 0
    for number, line in itertools.islice(lines, MAX_JOINED_LINES):
        taken.append((number, line))
        chars += len(line or "")
        if line is None or line.count('"') % 2 or chars > MAX_CHARS:
            break
    return taken


def _patterns(delimiter: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of a whole record and of one that ends inside a quoted field.

    In an unquoted field quotes must come in pairs. Otherwise a delimiter would split the text between two quotes.
    """
    plain = rf'[^"\n{re.escape(delimiter)}]'
    quoted = r'"[^"]*+(?:""[^"]*+)*+"'
    unquoted = rf'(?:{plain}++(?:"{plain}*+"{plain}*+)*+)?+'
    field, then = rf"(?:{quoted}|{unquoted})", re.escape(delimiter)
    return re.compile(rf"{field}(?:{then}{field})*+"), re.compile(rf'(?:{field}{then})*+"[^"]*+(?:""[^"]*+)*+')


def _place(first: TableLine, source: str, reading: Reading, dialect: Dialect) -> int:
    """Return the index of the caption's field. Raises InputError if the first line doesn't tell it."""
    if first.problem:
        raise InputError(f"captions file '{source}', line {first.line}, which tells its columns: {first.problem}")
    names = first.fields
    if any("\udc80" <= char <= "\udcff" for name in names for char in name):
        raise InputError(f"captions file '{source}': its first line is not UTF-8; name its encoding by --encoding")
    named = pick(names, reading.column) if reading.header is not False else None
    if named is not None:
        return names.index(named)
    number = int(reading.column) if reading.column and reading.column.isdecimal() else None
    if number is None and reading.header is False and reading.column is None and len(names) == 1:
        number = 1
    if number is None or not 1 <= number <= len(names) or reading.header is None:
        _refuse(names, source, reading, dialect, number=number)
    return number - 1


def _refuse(names: list[str], source: str, reading: Reading, dialect: Dialect, *, number: int | None) -> NoReturn:
    """Raise InputError that says which option would help to find the column."""
    columns = f"its columns: {listed(names)}"
    if reading.header is False:
        raise InputError(
            f"captions file '{source}' is read without a header: name its column by number, --column 1 to "
            f"{len(names)}; its first line: {listed(names)}"
        )
    others = (each for each in SEPARATORS if each != dialect.delimiter)
    looks = next((each for each in others if pick(", ".join(names).split(each), reading.column)), None)
    if looks and len(names) == 1:
        raise InputError(f"captions file '{source}': its separator looks like {SEPARATORS[looks]}: use --delimiter")
    if number is not None and number <= len(names):
        raise InputError(
            f"captions file '{source}' has no column named '{number}'; to take column {number} say --no-header if its "
            f"first line is a caption, --header if it holds names; {columns}"
        )
    advice = "say --no-header if its first line is a caption"
    if reading.column:
        raise InputError(f"captions file '{source}' has no column '{reading.column}'; {columns}; {advice}")
    wanted = f"no column named {', '.join(COLUMNS[:3])}; name it by --column, or {advice}"
    raise InputError(f"captions file '{source}' has {wanted}; {columns}")
