"""Values that JSON can hold: their digest, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(ours: dict[str, Any], theirs: dict[str, Any], *, where: str, prefix: str = "") -> list[str]:
    """List the fields in which two nested dicts differ, with both values. `where` describes `theirs` in the text."""
    found: list[str] = []
    for key in sorted(ours.keys() | theirs.keys()):
        left, right, name = ours.get(key), theirs.get(key), f"{prefix}{key}"
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, where=where, prefix=f"{name}.")
        elif left != right:
            found.append(f"{name}: {right!r} {where}, {left!r} asked for")
    return found
