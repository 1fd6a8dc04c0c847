"""Where the cache is, also for a user without a home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from x2i_platform.cache import cache_folder
from x2i_platform.errors import ConfigError


def test_it_is_where_it_was_asked_for_or_in_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("X2I_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "x2i-platform"
    monkeypatch.setenv("X2I_CACHE", "~/elsewhere")
    assert cache_folder() == tmp_path / "elsewhere"


def test_without_a_home_it_must_be_named_and_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setenv("HOME", "unset below")
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("X2I_CACHE", raising=False)
    with pytest.raises(ConfigError, match="this user has no home folder; set X2I_CACHE to a folder"):
        cache_folder()
    monkeypatch.setenv("X2I_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert os.environ["HOME"] == str(tmp_path)
