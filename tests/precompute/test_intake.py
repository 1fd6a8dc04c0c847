"""Captions are counted for a plan as they would be taken into a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from x2i_platform.errors import InputError
from x2i_platform.precompute.captions import Captions
from x2i_platform.precompute.intake import count_captions


def test_captions_are_counted_once_each(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("aaaa\nbb\n\naaaa\n", encoding="utf-8")
    intake, counted = count_captions(Captions(str(path)).records(), path=str(path))
    assert (intake.lines, intake.duplicates) == (3, 1)
    assert (counted.rows, counted.mean_chars) == (2, 3.0)
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(InputError, match="hold no caption"):
        count_captions(Captions(str(path)).records(), path=str(path))
