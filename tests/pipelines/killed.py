"""A command that is killed with -9 in the middle of its work."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START_TIMEOUT_S = 150
CLUSTER_NOTICES_S = 3
"""Workers of a driver that was killed may finish what they are at."""


def run_until_images(command: Sequence[str], folder: Path, *, count: int) -> Mapping[str, int]:
    """Run a command, kill it once a folder has some images; the images that are there, and when each was written."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + START_TIMEOUT_S
    while len(list(folder.glob("*.png"))) < count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(CLUSTER_NOTICES_S)
    return written(folder)


def written(folder: Path) -> dict[str, int]:
    """Images of a folder, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
