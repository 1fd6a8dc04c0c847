"""A folder's weights are hashed whole, and once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from x2i_platform.models import content
from x2i_platform.models.content import content_digest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("X2I_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "SETTLED_S", 0.0)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(content.WORTH_KEEPING_BYTES))
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are hashed, as they are."""
    names: list[str] = []
    real = content._sha256

    def noting(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(content, "_sha256", noting)
    return names


def test_what_was_hashed_is_not_read_again(folder: Path, read: list[str]) -> None:
    digest = content_digest(folder)
    assert sorted(read) == ["config.json", "model.safetensors"]
    assert content_digest(folder) == digest
    assert read[2:] == ["config.json"]  # small files are not worth a note


def test_a_byte_is_noticed_though_size_and_time_are_what_they_were(folder: Path, read: list[str]) -> None:
    before, weights = content_digest(folder), folder / "model.safetensors"
    times = weights.stat()
    time.sleep(0.02)
    with weights.open("r+b") as file:
        file.seek(500_000)
        file.write(b"x")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_digest(folder) != before
    assert read.count("model.safetensors") == 2


def test_a_file_written_a_moment_ago_is_not_trusted(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "SETTLED_S", 60.0)
    content_digest(folder)
    content_digest(folder)
    assert read.count("model.safetensors") == 2


@pytest.mark.parametrize("damage", [b"", b"[1]", b"\xff{"])
def test_damaged_notes_and_a_cache_that_cannot_be_written_cost_only_time(
    folder: Path, read: list[str], damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = content_digest(folder)
    [notes] = Path(os.environ["X2I_CACHE"], "hashes").iterdir()
    notes.write_bytes(damage)
    assert content_digest(folder) == digest
    monkeypatch.setenv("X2I_CACHE", str(notes / "no folder"))
    assert content_digest(folder) == digest
    assert read.count("model.safetensors") == 3


def test_links_that_lead_round_are_entered_once(folder: Path, read: list[str]) -> None:
    before = content_digest(folder)
    (folder / "one").symlink_to(folder)
    (folder / "two").symlink_to(".")
    assert content_digest(folder) == before


def test_a_cost_that_is_felt_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "WORTH_SAYING_BYTES", content.WORTH_KEEPING_BYTES)
    content_digest(folder)
    content_digest(folder)
    assert [record.getMessage() for record in caplog.records] == [f"hashing 0.0 GB of weights in {folder}, once"]
