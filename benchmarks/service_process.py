"""A real `x2i-platform serve` on loopback, in a process of its own with a Ray cluster of its own."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 90
REPLICA = "ServeReplica:x2i-platform:"
Kind = Literal["EncoderReplica", "DenoiserReplica"]


@dataclass(frozen=True)
class Service:
    """A service that runs, and where it keeps its jobs."""

    process: subprocess.Popen[bytes]
    port: int
    state: Path
    log: Path

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self.port}"

    def figures(self) -> dict[str, float]:
        """What /metrics says, by name and labels as Prometheus writes them: `x2i_stage_seconds_sum{stage="encode"}`."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).raise_for_status().text
        return {
            sample.name + _labels(sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def replicas(self, kind: Kind | Literal[""] = "") -> list[psutil.Process]:
        """Processes of the replicas of models: of one kind, or of both."""
        kinds = (kind,) if kind else ("EncoderReplica", "DenoiserReplica")
        return [process for process in self._below() if any(REPLICA + each in _words(process) for each in kinds)]

    def cores_at_work(self, *, over_s: float) -> float:
        """How many cores the replicas keep busy, as a mean over some seconds."""
        replicas = self.replicas()
        before = sum(map(_cpu_s, replicas))
        time.sleep(over_s)
        return (sum(map(_cpu_s, replicas)) - before) / over_s

    def stop(self) -> tuple[int, float]:
        """Tell it to stop; returns its exit code and the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S), time.monotonic() - began

    def _below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextlib.contextmanager
def serving(
    *models: str, folder: Path, flags: tuple[str, ...] = (), started_in: Path | None = None
) -> Iterator[Service]:
    """Serve models for the length of the block; `folder` takes the log and the state.

    `started_in` is the command's working folder, by default this process's. Raises RuntimeError with the end of the log
    if the service doesn't come up.
    """
    port, log, state = _free_port(), folder / "service.log", folder / "state"
    command = [sys.executable, "-m", "cli", "serve", *models, f"--port={port}", f"--state={state}", *flags]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=started_in)
    service = Service(process, port, state, log)
    try:
        _wait_until_ready(service)
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    """Whether a condition came to hold in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _wait_until_ready(service: Service) -> None:
    def ready() -> bool:
        if service.process.poll() is not None:
            return True
        try:
            return httpx.get(f"{service.url}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    if not wait_until(ready, timeout_s=START_TIMEOUT_S) or service.process.poll() is not None:
        service.process.kill()
        raise RuntimeError(f"the service didn't come up: {service.log.read_text(errors='replace')[-2000:]}")


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""


def _words(process: psutil.Process) -> str:
    try:
        return " ".join((process.name(), *process.cmdline()))
    except psutil.NoSuchProcess:
        return ""


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
