"""Files that can't be read are one error that names them; what reads as an interruption never leaves."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from x2i_platform.errors import InputError
from x2i_platform.streams import opened


def content_of(path: Path | str) -> bytes:
    with opened(str(path), what="file") as handle:
        return handle.read()


@pytest.mark.parametrize(("name", "pack"), [("a", bytes), ("a.gz", gzip.compress), ("a.tgz", gzip.compress)])
def test_a_file_is_unpacked_as_its_name_says(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(pack(b"content"))
    assert content_of(tmp_path / name) == b"content"


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_packed_file_that_is_cut_short_or_none_is_refused_in_one_line(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    whole = pack(b"".join(b"line %d\n" % i for i in range(5000)))
    path = tmp_path / f"a.{ending}"
    for content in (whole[:-20], whole[: len(whole) // 2], b"not packed at all"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"^file '.*a\.{ending}' can't be read: \S") as caught:
            content_of(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/none/a.txt", "nosuch://bucket/a", "/", "s3:///"])
def test_what_cannot_be_opened_is_refused_by_name(path: str) -> None:
    with pytest.raises(InputError, match=f"file '{path}' can't be read: "):
        content_of(path)


def test_an_error_of_the_reader_passes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with pytest.raises(KeyError), opened(str(tmp_path / "a"), what="file"):
        raise KeyError("ours")
