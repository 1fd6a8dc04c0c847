"""One training at a time: the second waits, a dead one is not waited for."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from x2i_platform.errors import StoreError
from x2i_platform.training.lock import alone

HOLD = "from x2i_platform.training.lock import alone; from pathlib import Path; import sys, time\n"
HOLD += (
    "with alone('run', runs=sys.argv[1], database=Path(sys.argv[2])):\n    print('held', flush=True); time.sleep(600)"
)


def test_the_second_waits_says_so_once_and_a_killed_process_holds_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs, database = tmp_path / "runs", tmp_path / "db" / "mlflow.db"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(runs), str(database)], stdout=subprocess.PIPE)
    assert first.stdout is not None
    entered = [threading.Event(), threading.Event()]

    def enter(folder: Path, mark: threading.Event) -> None:
        with alone("run", runs=str(folder), database=database):
            mark.set()

    try:
        assert first.stdout.readline() == b"held\n"
        with alone("another run", runs=str(runs), database=database):
            pass
        # The second has a folder of its own, but the same database, and so the same MLflow run.
        threads = [
            threading.Thread(target=enter, args=each, daemon=True)
            for each in zip((runs, tmp_path / "elsewhere"), entered, strict=True)
        ]
        for thread in threads:
            thread.start()
        assert not entered[0].wait(1.5)
        assert not entered[1].is_set()
    finally:
        first.kill()
        first.wait()
    for mark, thread in zip(entered, threads, strict=True):
        assert mark.wait(10)
        thread.join(10)
    said = f"the same training runs already in {database.parent}; waiting until it ends"
    assert [record.getMessage() for record in caplog.records] == [said, said]


def test_folder_and_database_in_one_place_are_one_lock(tmp_path: Path) -> None:
    for _ in range(2):
        with alone("run", runs=str(tmp_path), database=tmp_path / "mlflow.db"):
            assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]


def test_a_link_to_the_databases_folder_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with alone("run", runs=str(tmp_path / "link"), database=tmp_path / "real" / "mlflow.db"):
        assert [path.name for path in (tmp_path / "real").iterdir()] == [".run.lock"]


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal = pytest.raises(StoreError, match=r"can't lock '.*file/\.run\.lock': ")
    with refusal, alone("run", runs=str(tmp_path / "file"), database=None):
        pytest.fail("locked")
