"""A name holds nothing or a whole file, however many processes write and whenever they are killed."""

from __future__ import annotations

import itertools
import os
import resource
import stat
import tempfile
import time
from pathlib import Path

import pytest

from tests.features.together import begin, meet, race
from x2i_platform.errors import StoreError
from x2i_platform.features.files import SCRATCH_LIFETIME_S, Files


def claim(me: int, root: str, names: int) -> list[int]:
    """The names this process was the one to publish."""
    files, content, won = Files(root), f"{me} ".encode() * 20_000, []
    for number in range(names):
        meet()
        if files.publish_new(f"commits/{number}.json", content):
            won.append(number)
    return won


def test_of_racing_processes_exactly_one_publishes_a_new_name(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store"))
    won = race(claim, files.url, 60, count=5)
    assert sorted(number for mine in won for number in mine) == list(range(60))
    for me, mine in enumerate(won):
        for number in mine:
            assert files.read(f"commits/{number}.json") == f"{me} ".encode() * 20_000
    assert sum(bool(mine) for mine in won) > 1, "a race that one process wins alone shows nothing"
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


def replace_for_ever(root: str) -> None:
    files = Files(root)
    for number in itertools.count():
        files.publish("a/manifest.json", str(number % 10).encode() * (200_000 + number % 10))


def test_a_replaced_file_is_always_whole_even_if_its_writer_is_killed(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    for _ in range(3):
        writer = begin(replace_for_ever, files.url)
        while not files.exists("a/manifest.json"):
            time.sleep(0.01)
        started = time.monotonic()
        while time.monotonic() - started < 0.3:
            assert_whole(files.read("a/manifest.json"))
        writer.kill()
        writer.join()
        assert_whole(files.read("a/manifest.json"))
        files.remove("a/manifest.json")


def assert_whole(content: bytes) -> None:
    digit = content[:1]
    assert content == digit * (200_000 + int(digit))


def test_sweep_drops_what_the_killed_left_and_nothing_else(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store"))
    files.sweep()
    files.publish("kept.json", b"{}")
    with files.scratch_file(".parquet") as fresh, files.scratch_file(".parquet") as old:
        for path in (fresh, old):
            path.write_bytes(b"half")
        past = time.time() - SCRATCH_LIFETIME_S - 60
        os.utime(old, (past, past))
        files.sweep()
        assert fresh.exists()
        assert not old.exists()
    assert not fresh.exists()
    assert files.read("kept.json") == b"{}"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A store that is no local folder, on a machine whose temporary folder is `tmp_path / "shared"`."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    return Files("memory://store")


def old_file(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "thesis.txt"
    path.write_text("years of work")
    os.utime(path, (0, 0))
    return path


def test_a_link_in_place_of_the_scratch_folder_is_refused_and_leads_to_no_harm(tmp_path: Path, remote: Files) -> None:
    precious = old_file(tmp_path / "home")
    local = Files(str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    for files, link in (
        (local, tmp_path / "store" / ".tmp"),
        (remote, tmp_path / "shared" / f"x2i-platform-{os.getuid()}"),
    ):
        link.symlink_to(precious.parent)
        with pytest.raises(StoreError, match=f"scratch folder '{link}' is a link or a file; remove it"):
            files.sweep()
        with pytest.raises(StoreError, match="is a link"), files.scratch_file():
            pytest.fail("wrote there")
    assert precious.read_text() == "years of work"
    assert [path.name for path in precious.parent.iterdir()] == ["thesis.txt"]


def test_links_and_folders_in_the_scratch_folder_are_left_alone(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    precious = old_file(tmp_path / "home")
    (tmp_path / ".tmp" / "folder").mkdir(parents=True)
    (tmp_path / ".tmp" / "link").symlink_to(precious)
    os.utime(tmp_path / ".tmp" / "folder", (0, 0))
    os.utime(tmp_path / ".tmp" / "link", (0, 0), follow_symlinks=False)
    files.sweep()
    assert precious.exists()
    assert {path.name for path in (tmp_path / ".tmp").iterdir()} == {"folder", "link"}


def test_a_scratch_folder_among_other_users_is_private(tmp_path: Path, remote: Files) -> None:
    folder = tmp_path / "shared" / f"x2i-platform-{os.getuid()}"
    with remote.scratch_file() as scratch:
        assert scratch.parent == folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    remote.sweep()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives a folder away")
def test_a_scratch_folder_of_another_user_is_refused(tmp_path: Path, remote: Files) -> None:
    folder = tmp_path / "shared" / f"x2i-platform-{os.getuid()}"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(StoreError, match="belongs to another user; remove it, or set TMPDIR"):
        remote.sweep()


@pytest.mark.parametrize("name", ["store", "run [1] of * ?", "ünïcode ~"])
def test_any_name_of_folder_works(tmp_path: Path, name: str) -> None:
    files = Files(str(tmp_path / name))
    assert files.names("commits") == []
    assert not files.exists("commits/1.json")
    for number in (2, 1, 3):
        assert files.publish_new(f"commits/{number}.json", b"%d" % number)
    files.publish("commits/other.txt", b"")
    assert not files.publish_new("commits/1.json", b"again")
    names = files.names("commits", suffix=".json")
    assert names == ["commits/1.json", "commits/2.json", "commits/3.json"]
    assert files.read_many(names[::-1]) == [b"3", b"2", b"1"]
    assert files.read_many([]) == []
    files.remove("commits/1.json")
    files.remove("commits/1.json")
    assert files.names("commits", suffix=".json") == names[1:]


def test_a_file_is_adopted_whole_and_replaces_what_was_there(tmp_path: Path) -> None:
    files = Files(str(tmp_path / "store"))
    for content in (b"first", b"second"):
        with files.scratch_file() as scratch:
            scratch.write_bytes(content)
            files.adopt(scratch, "text/000000.parquet")
        assert files.read("text/000000.parquet") == content
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


def test_what_a_disk_refuses_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no folder")
    files = Files(str(tmp_path / "notes.txt"))
    for refused in (
        lambda: files.publish_new("store.json", b"{}"),
        lambda: files.publish("store.json", b"{}"),
        lambda: files.read("store.json"),
    ):
        with pytest.raises(StoreError, match=r"can't \w+ '.*notes\.txt/.*': Not a directory"):
            refused()
    here = Files(str(tmp_path))
    with pytest.raises(StoreError, match=r"can't read '.*/gone\.json': No such file"):
        here.read("gone.json")
    with pytest.raises(StoreError, match=r"can't read '.*gone\.json"):
        here.read_many(["notes.txt", "gone.json"])
    (tmp_path / "commits").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="can't write"):
        here.publish_new("commits/000000.json", b"{}")
    with pytest.raises(StoreError, match="can't open 'nosuch://bucket/store'"):
        Files("nosuch://bucket/store")


def write_too_much(_: int, root: str) -> list[str]:
    """The messages for files above the size that the disk, for which a limit on files stands, can hold."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    files, messages = Files(root), []
    for publish in (files.publish, files.publish_new):
        with pytest.raises(StoreError) as caught:
            publish("a/big.json", bytes(100_000))
        messages.append(str(caught.value))
    return messages


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path: Path) -> None:
    (messages,) = race(write_too_much, str(tmp_path), count=1)
    assert [message.endswith("a/big.json': File too large") for message in messages] == [True, True]
    assert [path.name for path in tmp_path.rglob("*")] == [".tmp"]
