"""The normal form: captions that read the same are the same, and nothing that can be seen is lost."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.precompute.captions.caption_records import written
from x2i_platform.mini import captions_path
from x2i_platform.precompute.captions import Captions, normalised
from x2i_platform.precompute.intake import Intake, unique_samples

SEEN = {"L", "N", "P", "S"}
"""First letters of the categories of characters that can be seen, marks left out: they compose."""


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("cafe\u0301 by the sea", "café by the sea"),
        ("a  red\tcircle\u00a0 and \r\n a\u3000square", "a red circle and a square"),
        ("\ufeffa \u200bred\u2060 cir\u00adcle\u200b", "a red circle"),
        ("a\u200c red\u200d circle", "a red circle"),
        ("ﬁne ½ ① Ａ Å", "ﬁne ½ ① Ａ Å"),  # NFKC would change what is seen; NFC makes Ångström's sign a letter
        ("👨‍👩‍👧 and 🏳️‍🌈", "👨‍👩‍👧 and 🏳️‍🌈"),
        ("می‌خواهم", "می‌خواهم"),
        ("क्‍ष", "क्‍ष"),
        ("  ", ""),
        ("\u200b", ""),
    ],
)
def test_the_normal_form(text: str, normal: str) -> None:
    assert normalised(text) == unicodedata.normalize("NFC", normal)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(derandomize=True, deadline=None)
def test_a_normal_text_is_composed_single_spaced_and_stays_as_it_is(text: str) -> None:
    normal = normalised(text)
    assert normal == unicodedata.normalize("NFC", normal)
    assert normal == " ".join(normal.split())
    assert normalised(normal) == normal
    seen = [char for char in unicodedata.normalize("NFD", text) if unicodedata.category(char)[0] in SEEN]
    assert seen == [char for char in unicodedata.normalize("NFD", normal) if unicodedata.category(char)[0] in SEEN]


def test_spellings_of_one_caption_are_one_sample(tmp_path: Path) -> None:
    spellings = ["a café by the sea", "a cafe\u0301 by the sea", "a café  by the sea", "a\u00a0café by the sea"]
    path = written(tmp_path / "c.txt", "\n".join(spellings))
    intake = Intake()
    [row] = unique_samples(Captions(str(path)).records(), intake=intake)
    assert row["caption"] == "a café by the sea"
    assert (intake.lines, intake.duplicates, intake.refused) == (4, 3, [])


def test_the_shipped_captions_are_normal() -> None:
    captions = captions_path().read_text(encoding="utf-8").splitlines()
    assert captions == [normalised(caption) for caption in captions]
