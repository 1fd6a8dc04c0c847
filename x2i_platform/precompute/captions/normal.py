"""Normalises captions: composed letters, single spaces, no invisible characters without a meaning.

Invariants: normal text stays unchanged, so its id never changes; no visible character is lost.
"""

from __future__ import annotations

import re
import unicodedata

INVISIBLE = "\u200b\u2060\ufeff\u00ad"
"""Zero-width space, word joiner, byte order mark and soft hyphen, which web pages and files leave behind."""
_JOINERS = re.compile("[\u200c\u200d]+")
_UNJOINED = ("LATIN", "GREEK", "CYRILLIC", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "FULLWIDTH", "IDEOGRAPHIC")
"""Scripts without joiners, by the first word of their letters' Unicode names."""
_DROPPED = str.maketrans("", "", INVISIBLE)


def normalised(text: str) -> str:
    """Return the text in Unicode's form NFC, with single spaces and none at the ends.

    White space is Unicode's, so it includes line ends, tabs, non-breaking and ideographic spaces. Joiners (ZWJ, ZWNJ)
    are kept where they have an effect: in emoji and in the scripts of Persian, Hindi and others.
    """
    if text.isascii():
        return " ".join(text.split())
    text = unicodedata.normalize("NFC", text.translate(_DROPPED))
    text = _JOINERS.sub(lambda found: found[0] if _joins(text, found.start()) else "", text)
    return " ".join(unicodedata.normalize("NFC", text).split())


def _joins(text: str, place: int) -> bool:
    """Return whether the character before a joiner can be joined. Marks on a letter are ignored."""
    while place and unicodedata.category(text[place - 1]).startswith("M"):
        place -= 1
    before = text[place - 1] if place else " "
    return not (before.isascii() or before.isspace() or unicodedata.name(before, "").startswith(_UNJOINED))
