"""One form for captions that read the same: composed letters, single spaces, nothing invisible without a meaning.

Invariants: what is normal stays as it is, so ids of captions that were always normal never change; no visible
character is lost.
"""

from __future__ import annotations

import re
import unicodedata

INVISIBLE = "\u200b\u2060\ufeff\u00ad"
"""Zero-width space, word joiner, byte order mark, soft hyphen: leftovers of web pages and files."""
_JOINERS = re.compile("[\u200c\u200d]+")
_UNJOINED = ("LATIN", "GREEK", "CYRILLIC", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "FULLWIDTH", "IDEOGRAPHIC")
"""Scripts, by the first word of their letters' names, in which joiners say nothing."""
_DROPPED = str.maketrans("", "", INVISIBLE)


def normalised(text: str) -> str:
    """The text in Unicode's form NFC, each run of white space one space, none at the ends.

    White space is what Unicode calls so: line ends, tabs, non-breaking and ideographic spaces too. Joiners (ZWJ, ZWNJ)
    stay where they join: in emoji, and in scripts such as Persian's and Hindi's.
    """
    if text.isascii():
        return " ".join(text.split())
    text = unicodedata.normalize("NFC", text.translate(_DROPPED))
    text = _JOINERS.sub(lambda found: found[0] if _joins(text, found.start()) else "", text)
    return " ".join(unicodedata.normalize("NFC", text).split())


def _joins(text: str, place: int) -> bool:
    """Whether what stands before a joiner is of a kind that is joined; marks on a letter are looked through."""
    while place and unicodedata.category(text[place - 1]).startswith("M"):
        place -= 1
    before = text[place - 1] if place else " "
    return not (before.isascii() or before.isspace() or unicodedata.name(before, "").startswith(_UNJOINED))
