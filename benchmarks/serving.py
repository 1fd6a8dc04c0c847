"""A service under load and under faults, on loopback, and its throughput beside a bare loop over `Generator`.

    python benchmarks/serving.py [load throughput cancels killed moved stopped] [--seconds 60] [--clients 64] …

Serves mini:alignnet with `x2i-platform serve`, and for `moved` and `stopped` two versions of it in a registry of its
own. The bare loop is one process that calls `generate` on batches of the same size, with one thread and with as many as
there are cores; the better one counts. It takes turns with the service, so both see the same machine. The service's
clients run on the same cores and are not subtracted. All prompts differ: encoders keep what they have read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bare_generator import bare_process, bare_rate
from service_faults import ALIAS, NAME, cancel, is_idle, killing, moving, stopped_at_work, two_versions
from service_load import OK, Load, asked_for, bodies, load
from service_process import Kind, Service, serving, wait_until

from x2i_platform.mini.checkpoints import folder_of

MODEL = "mini:alignnet"
RAMP_S = 5.0
"""Seconds at the start of a load that don't count for its rate."""
PROMPTS_A_ROUND = 10_000
CANCELS, AFTER_CANCELS, JOBS = 200, 50, 8
LEAST_RATIO, LEAST_SUCCESS = 0.9, 0.99
STAGES = ("encode", "wait", "denoise", "write")


@dataclass(frozen=True)
class Row:
    """What was looked at, what was seen, and what must hold."""

    what: str
    seen: str
    bar: str
    holds: bool


@dataclass(frozen=True)
class Settings:
    """How much of everything."""

    seconds: float
    clients: int
    sizes: Sequence[int]
    rounds: int
    round_s: float
    max_batch: int
    queue: int
    num_cpus: float
    replicas: int
    grace_s: float

    @property
    def flags(self) -> tuple[str, ...]:
        """Those of `x2i-platform serve`."""
        return (
            *(f"--max-batch={self.max_batch}", f"--queue={self.queue}", f"--num-cpus={self.num_cpus:g}"),
            *(f"--replicas={self.replicas}", f"--grace={self.grace_s:g}", "--follow=0.5"),
        )

    @property
    def bound(self) -> int:
        """Requests that are taken at once: those at work, of which a denoiser has two batches, and those that wait."""
        return 2 * self.replicas * self.max_batch + self.queue


def under_load(service: Service, settings: Settings) -> list[Row]:
    """Many clients for a while; then more than the queue takes."""
    before = service.figures()
    found = asyncio.run(load(service.url, bodies(), clients=settings.clients, seconds=settings.seconds))
    after = service.figures()
    crowd = asyncio.run(load(service.url, bodies(), clients=settings.bound + 32, seconds=10))
    fits = settings.clients <= settings.bound
    refused = 429 in found.statuses
    return [
        Row(
            f"{settings.clients} clients for {settings.seconds:g} s, {settings.bound} fit",
            f"{_said(found)}; {_stages(before, after)}",
            "no 5xx, no 429" if fits else "no 5xx",
            not _broken(found) and not (fits and refused),
        ),
        Row(
            f"{settings.bound + 32} clients for 10 s, {settings.bound} fit",
            _said(crowd),
            "429, no 5xx",
            set(crowd.statuses) == {OK, 429},
        ),
    ]


def throughput(service: Service, settings: Settings) -> list[Row]:
    """The service at saturation and the bare loop, in turns."""
    threads = sorted({1, os.cpu_count() or 1})
    with bare_process() as bare:
        return [_throughput(service, settings, bare, side=side, threads=threads) for side in settings.sizes]


def _throughput(
    service: Service, settings: Settings, bare: ProcessPoolExecutor, *, side: int, threads: Sequence[int]
) -> Row:
    ours: list[float] = []
    theirs: dict[int, list[float]] = {count: [] for count in threads}
    shared: Any = {"side": side, "batch": settings.max_batch, "seconds": settings.round_s}
    for number in range(settings.rounds):
        wanted = bodies(size=f"{side}x{side}", start=number * PROMPTS_A_ROUND)
        clients, seconds = 3 * settings.replicas * settings.max_batch, RAMP_S + settings.round_s
        found = asyncio.run(load(service.url, wanted, clients=clients, seconds=seconds))
        ours.append(found.images_per_second(after_s=RAMP_S))
        for count, rates in theirs.items():
            rates.append(bare.submit(bare_rate, MODEL, threads=count, **shared).result())
    served, bares = statistics.median(ours), {count: statistics.median(rates) for count, rates in theirs.items()}
    ratio = served / max(bares.values())
    said = ", ".join(f"bare on {count} of the cores {rate:.1f}" for count, rate in bares.items())
    seen = f"service {served:.1f}, {said}; ratio {ratio:.2f}"
    return Row(
        f"images/s at {side}x{side}, batches of {settings.max_batch}", seen, f"≥ {LEAST_RATIO}", ratio >= LEAST_RATIO
    )


def cancels(service: Service, _: Settings) -> list[Row]:
    """Work that is given up leaves nothing running."""
    ways = asyncio.run(cancel(service.url, count=CANCELS, at_once=16))
    began = time.monotonic()
    idle = wait_until(lambda: is_idle(service), timeout_s=30)
    idle_s = time.monotonic() - began
    found = asyncio.run(asked_for(service.url, bodies(), count=AFTER_CANCELS, clients=8))
    answered = any(way.startswith("answered") for way in ways)
    said = ", ".join(f"{count} {way}" for way, count in sorted(ways.items()))
    return [
        Row(f"{CANCELS} cancels", f"{said}; idle within {idle_s:.0f} s", "nothing left running", idle and not answered),
        Row(f"{AFTER_CANCELS} requests after them", _said(found), "all succeed", found.succeeded == 1),
    ]


def killed(service: Service, settings: Settings) -> list[Row]:
    """Replicas die under load."""
    kinds: tuple[Kind, ...] = ("DenoiserReplica", "EncoderReplica")
    found = asyncio.run(killing(service, kinds, clients=16, seconds=max(60.0, settings.seconds)))
    retried = sum(answer.tries > 1 for answer in found.answers)
    lost = service.figures()["x2i_replicas_lost_total"]
    seen = f"{_said(found)}; {retried} retried by the client, {lost:.0f} by the service"
    return [Row("denoiser, then encoder killed", seen, f"≥ {LEAST_SUCCESS:.0%}", found.succeeded >= LEAST_SUCCESS)]


def moved(service: Service, *, versions: Sequence[str], uri: str) -> list[Row]:
    """The alias moves under load."""
    found = asyncio.run(moving(service, versions, uri=uri, clients=16, seconds=30, every_s=4))
    said = ", ".join(f"{count} by {version}" for version, count in sorted(found.versions.items()))
    holds = found.load.succeeded == 1 and set(found.versions) == set(versions) and found.moves > 0
    return [
        Row(
            f"alias moved {found.moves} times",
            f"{_said(found.load)}; {said}; switched {found.changes} times",
            "no failure, one known version each",
            holds and found.changes >= found.moves,
        )
    ]


def stopped(service: Service, settings: Settings) -> list[Row]:
    """SIGTERM while jobs run."""
    found = stopped_at_work(service, bodies(num_inference_steps=200, size="256x256"), jobs=JOBS)
    said = ", ".join(f"{count} {end}" for end, count in sorted(found.jobs.items()))
    ended = set(found.jobs) <= {"succeeded", "failed: shutting down"}
    in_time = found.handed_back_s <= found.seconds <= settings.grace_s
    seen = f"{said} after {found.handed_back_s:.1f} s; exit code {found.exit_code} after {found.seconds:.1f} s"
    bar = f"finished or handed back, and the end, in {settings.grace_s:g} s"
    return [Row(f"SIGTERM with {JOBS} jobs", seen, bar, ended and in_time and found.exit_code == 0)]


def _broken(found: Load) -> bool:
    return bool(set(found.statuses) - {OK, 429})


def _said(found: Load) -> str:
    statuses = ", ".join(f"{count} × {status}" for status, count in sorted(found.statuses.items()))
    p50, p95 = found.latency_s(50), found.latency_s(95)
    return f"{statuses}; p50 {p50:.2f} s, p95 {p95:.2f} s, {found.images_per_second():.1f} images/s"


def _stages(before: dict[str, float], after: dict[str, float]) -> str:
    def mean(name: str, labels: str = "") -> float:
        total, count = (
            after[f"{name}_{part}{labels}"] - before.get(f"{name}_{part}{labels}", 0) for part in ("sum", "count")
        )
        return total / max(1.0, count)

    seconds = [f"{stage} {mean('x2i_stage_seconds', _stage(stage)):.2f}" for stage in STAGES]
    queued = f"queue {mean('x2i_queue_seconds'):.2f}"
    return f"mean batch {mean('x2i_batch_size'):.1f}, mean seconds: {', '.join([queued, *seconds])}"


def _stage(name: str) -> str:
    return f'{{stage="{name}"}}'


SCENARIOS: dict[str, Callable[[Service, Settings], list[Row]]] = {
    "load": under_load,
    "throughput": throughput,
    "cancels": cancels,
    "killed": killed,
}


def measure(chosen: Sequence[str], settings: Settings, *, folder: Path) -> list[Row]:
    """All rows of some scenarios, each said as soon as it is known."""
    rows: list[Row] = []

    def note(found: list[Row]) -> None:
        rows.extend(found)
        for row in found:
            print(f"| {row.what} | {row.seen} | {row.bar} | {'yes' if row.holds else '**no**'} |", flush=True)

    first = [name for name in SCENARIOS if name in chosen]
    if first:
        with serving(MODEL, folder=folder, flags=settings.flags) as service:
            for name in first:
                note(SCENARIOS[name](service, settings))
    if {"moved", "stopped"} & set(chosen):
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        versions = two_versions(folder_of("alignnet"), uri=uri, scratch=folder)
        flags = (*settings.flags, f"--tracking-uri={uri}")
        with serving(f"models:/{NAME}@{ALIAS}", folder=folder, flags=flags) as service:
            if "moved" in chosen:
                note(moved(service, versions=versions, uri=uri))
            if "stopped" in chosen:
                note(stopped(service, settings))
    return rows


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SCENARIOS, "moved", "stopped"]
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"{', '.join(names)}; default: all")
    parser.add_argument("--seconds", type=float, default=60, help="of the load")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="of images, for the throughput")
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput")
    parser.add_argument("--round-s", type=float, default=20, help="seconds of each side in a round")
    parser.add_argument("--max-batch", type=int, default=16)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--num-cpus", type=float, default=1)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--grace-s", type=float, default=30)
    options = vars(parser.parse_args())
    chosen = options.pop("scenarios") or names
    if unknown := set(chosen) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}")
    print("| what | seen | must hold | holds |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(chosen, Settings(**options), folder=Path(folder))
    print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
