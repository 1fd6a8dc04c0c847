"""A normal form of captions that look the same: composed letters, single spaces, no meaningless invisible characters.

Invariants: normal text stays as it is, so captions that were always normal keep their ids; no visible character is
lost.
"""

from __future__ import annotations

import re
import unicodedata

INVISIBLE = "\u200b\u2060\ufeff\u00ad"
"""Invisible characters that are removed: zero-width space, word joiner, byte order mark, soft hyphen."""
_JOINERS = re.compile("[\u200c\u200d]+")
_UNJOINED = ("LATIN", "GREEK", "CYRILLIC", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "FULLWIDTH", "IDEOGRAPHIC")
"""Scripts in which joiners mean nothing, by the first word of their letters' Unicode names."""
_DROPPED = str.maketrans("", "", INVISIBLE)


def normalised(text: str) -> str:
    """The text in NFC, with each run of white space as one space and none at the ends.

    White space is what Unicode calls so, including line ends, tabs, non-breaking and ideographic spaces. Joiners (ZWJ,
    ZWNJ) stay where they have a meaning: in emoji, and in scripts such as Persian's and Hindi's.
    """
    if text.isascii():
        return " ".join(text.split())
    text = unicodedata.normalize("NFC", text.translate(_DROPPED))
    text = _JOINERS.sub(lambda found: found[0] if _joins(text, found.start()) else "", text)
    return " ".join(unicodedata.normalize("NFC", text).split())


def _joins(text: str, place: int) -> bool:
    """Whether the character before a joiner can be joined; marks on a letter are skipped."""
    while place and unicodedata.category(text[place - 1]).startswith("M"):
        place -= 1
    before = text[place - 1] if place else " "
    return not (before.isascii() or before.isspace() or unicodedata.name(before, "").startswith(_UNJOINED))
