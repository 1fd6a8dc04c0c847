"""A lock on a real object store: one holder at a time, and a dead one keeps nobody waiting for ever."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.features.together import begin, race
from x2i_platform.features import lease as lease_module
from x2i_platform.features.files import Files
from x2i_platform.features.lease import lease

NAME = ".run.lock"


def nothing() -> None:
    """What is done about waiting or a loss that a test doesn't look at."""


def quicken() -> None:
    lease_module.BEAT_S, lease_module.DEAD_AFTER_S = 0.1, 2.0


def hold(url: str, mark: str, *, for_s: float) -> None:
    """Hold the lease for a while, having left a mark."""
    quicken()
    with lease(Files(url), NAME, on_wait=nothing, on_loss=nothing):
        Path(mark).touch()
        time.sleep(for_s)


def holding_for_ever(url: str, mark: str) -> None:
    hold(url, mark, for_s=1000)


def in_turn(me: int, url: str, log: str) -> None:
    quicken()
    with lease(Files(url), NAME, on_wait=nothing, on_loss=nothing):
        for word in ("in", "out"):
            with Path(log).open("a") as file:
                file.write(f"{me} {word}\n")
            time.sleep(0.2)


def wait_for(mark: Path) -> None:
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT_S", 0.1)
    monkeypatch.setattr(lease_module, "DEAD_AFTER_S", 2.0)


def test_racing_processes_hold_it_one_after_the_other(s3_bucket: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    race(in_turn, s3_bucket, str(log), count=4)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [word for _, word in lines] == ["in", "out"] * 4
    assert [me for me, _ in lines[::2]] == [me for me, _ in lines[1::2]]


def test_a_living_holder_is_waited_for_and_a_killed_one_not_for_long(s3_bucket: str, tmp_path: Path) -> None:
    holder = begin(holding_for_ever, s3_bucket, str(tmp_path / "held"))
    wait_for(tmp_path / "held")
    waiter = begin(hold_at_once, s3_bucket, str(tmp_path / "mine"))
    time.sleep(4)  # twice what makes it dead
    assert not (tmp_path / "mine").exists()
    holder.kill()
    wait_for(tmp_path / "mine")
    waiter.join(30)
    assert waiter.exitcode == 0


def hold_at_once(url: str, mark: str) -> None:
    hold(url, mark, for_s=0)


def test_who_waits_is_told_once_and_who_lost_it_too(s3_bucket: str) -> None:
    files, told = Files(s3_bucket), []
    with lease(files, NAME, on_wait=nothing, on_loss=lambda: told.append("lost")):
        [mine] = files.names(NAME)
        assert files.publish_new(f"{NAME}/000000002", b"another, who thought the first was dead")
        time.sleep(0.5)
    assert told == ["lost"]
    assert files.read(mine) != lease_module.RELEASED
    with lease(files, NAME, on_wait=lambda: told.append("waits"), on_loss=nothing):
        assert told == ["lost", "waits"]
        assert files.names(NAME)[-1] == f"{NAME}/000000003"


def test_an_error_that_nobody_foresaw_stops_no_heart(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files, beats = Files(s3_bucket), []
    publish = Files.publish

    def failing_once(files: Files, name: str, data: bytes) -> None:
        beats.append(data)
        if len(beats) == 1:
            raise RuntimeError("of a library")
        publish(files, name, data)

    with lease(files, NAME, on_wait=nothing, on_loss=nothing):
        [mine] = files.names(NAME)
        before = files.read(mine)
        monkeypatch.setattr(Files, "publish", failing_once)
        time.sleep(1)
        assert len(beats) > 2
        assert files.read(mine) != before
