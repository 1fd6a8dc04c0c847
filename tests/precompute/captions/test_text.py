"""Text in other encodings than UTF-8: read by an option, which the refusal names where the file gives it away."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.precompute.captions.caption_records import read, written
from x2i_platform.errors import InputError
from x2i_platform.precompute.captions import Reading

CAPTIONS = ["a red cup", "naïve café", "红色的圆", "赤い円", "a 😀 face"]
FILES = {
    "c.txt": "\r\n".join(CAPTIONS),
    "c.csv": "caption,id\r\n" + "".join(f'"{caption}",{i}\r\n' for i, caption in enumerate(CAPTIONS)),
    "c.tsv": "id\tcaption\n" + "".join(f"{i}\t{caption}\n" for i, caption in enumerate(CAPTIONS)),
    "c.jsonl": "".join(f'{{"caption": "{caption}"}}\n' for caption in CAPTIONS),
    "c.json": "[" + ", ".join(f'"{caption}"' for caption in CAPTIONS) + "]",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_text_is_refused_by_name_and_read_by_an_option(tmp_path: Path, name: str, encoding: str) -> None:
    path = written(tmp_path / name, FILES[name].encode(encoding))
    assert [caption for _, caption in read(path, encoding=encoding)] == CAPTIONS
    with pytest.raises(InputError, match=rf"is UTF-\d\d.*; read it with --encoding {encoding}$"):
        read(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be"])
def test_a_mark_at_the_beginning_is_no_text(tmp_path: Path, name: str, encoding: str) -> None:
    path = written(tmp_path / f"{name}.gz", gzip.compress(f"\ufeff{FILES[name]}".encode(encoding)))
    assert [caption for _, caption in read(path, encoding=encoding)] == CAPTIONS


@pytest.mark.parametrize("text", ["красный круг\nдва квадрата\n", "一只红色的猫\n两个圆\n"])
def test_wide_text_without_latin_letters_is_known_too(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="--encoding utf-16-le"):
        read(written(tmp_path / "c.txt", text.encode("utf-16-le")))


@pytest.mark.parametrize("encoding", ["cp1252", "gb18030", "shift_jis"])
def test_other_encodings_are_not_guessed_but_said(tmp_path: Path, encoding: str) -> None:
    text = {"cp1252": "naïve café", "gb18030": "红色的圆", "shift_jis": "赤い円"}[encoding]
    path = written(tmp_path / "c.txt", f"plain\n{text}\n".encode(encoding))
    assert read(path, encoding=encoding) == [(1, "plain"), (2, text)]
    (first, (line, reason)) = read(path)
    assert (first, line) == ((1, "plain"), 2)
    assert reason.startswith("!caption holds byte 0x")
    assert reason.endswith("see --encoding")


@pytest.mark.parametrize("text", ["a red circle", "one\ntwo\none\n\n two ", "三个蓝色三角形", "x" * 500])
def test_zero_bytes_alone_make_no_wide_text(tmp_path: Path, text: str) -> None:
    (*_, (line, reason), last) = read(written(tmp_path / "c.txt", f"{text}\nnul\0\nlast"))
    assert reason == "!caption holds a NUL or a lone surrogate, which is no text"
    assert last == (line + 1, "last")


@pytest.mark.parametrize("encoding", ["", "utf-17", "hex", "utf 8\0"])
def test_what_is_no_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(InputError, match=r"--encoding .* is not known; use one such as utf-16"):
        Reading(encoding=encoding)
