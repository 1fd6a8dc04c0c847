"""Local files are whole whenever their writer is stopped and however many write; a lock ends with its process."""

from __future__ import annotations

import itertools
import os
import stat
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.features.together import begin, die, meet, race, run_until_killed
from x2i_platform.files import locked, publish, publish_folder, published, scratch_folder


class Stopped(BaseException):
    """Nothing may catch it."""


def write_half_and_die(path: str) -> None:
    with published(Path(path)) as scratch:
        scratch.write_bytes(b"half of the n")
        die()


def replace_for_ever(path: str) -> None:
    for number in itertools.count():
        publish(Path(path), str(number % 10).encode() * 200_000)


def replace_often(me: int, path: str) -> None:
    for _ in range(50):
        meet()
        publish(Path(path), str(me).encode() * 200_000)


def claim_folders(me: int, parent: str) -> None:
    for number in range(20):
        meet()
        target = Path(parent) / str(number)
        with scratch_folder(target) as scratch:
            for name in "abc":
                (scratch / name).write_text(str(me))
            publish_folder(scratch, target)


def hold_for_ever(path: str, mark: str) -> None:
    with locked(Path(path)):
        Path(mark).touch()
        time.sleep(1000)


def in_turn(me: int, path: str, log: str) -> None:
    for _ in range(3):
        with locked(Path(path)):
            for word in ("in", "out"):
                with Path(log).open("a") as file:
                    file.write(f"{me} {word}\n")
                time.sleep(0.02)


def test_a_file_is_replaced_and_its_folder_made(tmp_path: Path) -> None:
    for durable, content in ((False, b"first"), (True, b"second")):
        publish(tmp_path / "a" / "b.json", content, durable=durable)
        assert (tmp_path / "a" / "b.json").read_bytes() == content
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


@pytest.mark.parametrize("durable", [False, True])
def test_an_exception_in_the_middle_leaves_the_old_file_alone(tmp_path: Path, durable: bool) -> None:
    publish(tmp_path / "b.json", b"old")
    with pytest.raises(Stopped), published(tmp_path / "b.json", durable=durable) as scratch:
        scratch.write_bytes(b"half of the n")
        raise Stopped
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b.json": b"old"}


def test_a_kill_in_the_middle_leaves_the_old_file_and_a_hidden_one(tmp_path: Path) -> None:
    publish(tmp_path / "b.json", b"old")
    run_until_killed(write_half_and_die, str(tmp_path / "b.json"))
    assert (tmp_path / "b.json").read_bytes() == b"old"
    (left,) = (path.name for path in tmp_path.iterdir() if path.name != "b.json")
    assert left.startswith(".b.json.") and left.endswith(".part")
    publish(tmp_path / "b.json", b"new")
    assert (tmp_path / "b.json").read_bytes() == b"new"


def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    writer = begin(replace_for_ever, str(path))
    while not path.exists():
        time.sleep(0.01)
    started = time.monotonic()
    while time.monotonic() - started < 0.3:
        assert_whole(path)
    writer.kill()
    writer.join()
    assert_whole(path)


def test_of_concurrent_writers_one_wins_whole(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    race(replace_often, str(path), count=4)
    assert_whole(path)
    assert [found.name for found in tmp_path.iterdir()] == ["b.json"]


def assert_whole(path: Path) -> None:
    content = path.read_bytes()
    assert content == content[:1] * 200_000


def test_other_users_read_what_a_plain_file_lets_them_read(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with published(tmp_path / "weights.safetensors") as scratch:
        save_file({"a": torch.ones(2)}, scratch)
    assert stat.S_IMODE((tmp_path / "weights.safetensors").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("letter", ["x", "目"])
def test_the_longest_names_that_a_disk_takes_are_taken(tmp_path: Path, letter: str) -> None:
    path = tmp_path / (letter * (255 // len(letter.encode())))
    publish(path, b"content")
    assert path.read_bytes() == b"content"


def test_a_folder_is_published_whole_by_the_first(tmp_path: Path) -> None:
    race(claim_folders, str(tmp_path), count=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, range(20)))
    for folder in tmp_path.iterdir():
        contents = [path.read_text() for path in folder.iterdir()]
        assert len(contents) == 3
        assert len(set(contents)) == 1


def test_a_folder_that_was_not_finished_vanishes(tmp_path: Path) -> None:
    with pytest.raises(Stopped), scratch_folder(tmp_path / "a" / "model") as scratch:
        (scratch / "half").touch()
        raise Stopped
    assert list((tmp_path / "a").iterdir()) == []


def test_a_folder_that_cannot_take_its_name_says_so(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with scratch_folder(tmp_path / "model") as scratch, pytest.raises(OSError, match="model"):
        publish_folder(scratch, tmp_path / "model")


@pytest.mark.parametrize("is_folder", [False, True])
def test_racing_processes_hold_a_lock_one_after_the_other(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path if is_folder else tmp_path / "new" / ".lock"
    race(in_turn, str(path), str(tmp_path / "log"), count=3)
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [word for _, word in lines] == ["in", "out"] * 9
    assert [me for me, _ in lines[::2]] == [me for me, _ in lines[1::2]]


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_lock_frees_when_its_process_is_killed_and_who_waits_is_told_once(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path if is_folder else tmp_path / ".lock"
    holder = begin(hold_for_ever, str(path), str(tmp_path / "held"))
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    told: list[str] = []
    entered = threading.Event()

    def wait() -> None:
        with locked(path, on_wait=lambda: told.append("waits")):
            entered.set()

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    assert not entered.wait(1)
    holder.kill()
    assert entered.wait(30)
    waiter.join(30)
    assert told == ["waits"]


def test_who_does_not_want_to_wait_raises(tmp_path: Path) -> None:
    def refuse() -> None:
        raise Stopped

    for _ in range(2):
        with locked(tmp_path / ".lock"), pytest.raises(Stopped), locked(tmp_path / ".lock", on_wait=refuse):
            pytest.fail("held twice")
    with locked(tmp_path / ".lock", on_wait=refuse):
        pass


def test_a_file_that_is_locked_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("a line\n")
    with locked(tmp_path / "results.jsonl"):
        pass
    assert (tmp_path / "results.jsonl").read_text() == "a line\n"


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    def refuse() -> None:
        raise Stopped

    reading, writing = os.pipe()
    with locked(tmp_path / ".lock"):
        child = os.fork()
        if child == 0:
            os.read(reading, 1)
            os._exit(0)
    with locked(tmp_path / ".lock", on_wait=refuse):
        pass
    os.write(writing, b"x")
    os.waitpid(child, 0)


def test_what_cannot_be_locked_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), locked(tmp_path / "file" / ".lock"):
        pytest.fail("locked")
