"""What goes wrong while a service is under load: clients leave, replicas die, aliases move, it is told to stop."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from mlflow import MlflowClient
from service_load import ROUTE, TIMEOUT_S, Body, Load, bodies, load
from service_process import Kind, Service

from x2i_platform.models.alignnet import AlignNet
from x2i_platform.models.model_folder import load_alignnet, read_recipe, save_model
from x2i_platform.registry.models import register
from x2i_platform.registry.tracking import start_or_resume

ENDLESS: Body = {"num_inference_steps": 200, "size": "256x256"}
"""A minute of work or more, so that what is left running is seen."""
NAME = "mini"
ALIAS = "champion"


@dataclass(frozen=True)
class Switches:
    """A load while an alias moved."""

    load: Load
    moves: int
    versions: Counter[str]
    """Images by the version that they name; "" for one that names none."""
    changes: int
    """How often the version changed from one answer to the next one that was asked for."""


@dataclass(frozen=True)
class Stopped:
    """What a service left that was told to stop."""

    exit_code: int
    seconds: float
    """From the signal to its end."""
    handed_back_s: float
    """From the signal to the last record of a job that was written."""
    jobs: Counter[str]
    """By status, and the error's message if there is one."""


async def cancel(url: str, *, count: int, at_once: int, seed: int = 0) -> Counter[str]:
    """Begin endless work and give it up, in each of three ways; returns how often each."""
    draw, wanted = random.Random(seed), bodies(**ENDLESS)
    ways, left = (_leave, _leave_stream, _delete_job), iter(range(count))
    done: Counter[str] = Counter()

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
            for number in left:
                way = ways[number % len(ways)]
                done[await way(http, next(wanted), draw.uniform(0.01, 1.0))] += 1

    await asyncio.gather(*(client() for _ in range(at_once)))
    return done


async def _leave(http: httpx.AsyncClient, body: Body, after_s: float) -> str:
    try:
        answer = await http.post(ROUTE, json=body, timeout=httpx.Timeout(30, read=after_s))
    except httpx.ReadTimeout:
        return "left"
    return f"answered {answer.status_code}"


async def _leave_stream(http: httpx.AsyncClient, body: Body, after_s: float) -> str:
    fields = {**body, "stream": True, "partial_images": 10}
    try:
        async with http.stream("POST", ROUTE, json=fields, timeout=httpx.Timeout(30, read=after_s)) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("event: image_generation.partial_image"):
                    return "left its stream"
            return f"answered {answer.status_code}"
    except httpx.ReadTimeout:
        return "left before its stream"


async def _delete_job(http: httpx.AsyncClient, body: Body, after_s: float) -> str:
    job = await http.post("/v1/jobs", json=body)
    if job.status_code != 202:
        return f"answered {job.status_code}"
    await asyncio.sleep(after_s)
    deleted = await http.delete(f"/v1/jobs/{job.json()['id']}")
    return f"{deleted.json()['status']} its job"


def is_idle(service: Service) -> bool:
    """Whether nobody waits, nobody is at work, and the replicas compute nothing."""
    figures = service.figures()
    counted = figures["x2i_queue_depth"] + figures["x2i_requests_at_work"]
    return counted == 0 and service.cores_at_work(over_s=1.0) < 0.1


async def killing(service: Service, kinds: Sequence[Kind], *, clients: int, seconds: float, **settings: Any) -> Load:
    """Load with one retry, while one replica of each kind is killed, at even distances."""

    async def kill() -> None:
        for kind in kinds:
            await asyncio.sleep(seconds / (len(kinds) + 1))
            service.replicas(kind)[0].kill()

    return await load(service.url, bodies(**settings), clients=clients, seconds=seconds, retries=1, beside=kill)


def two_versions(folder: Path, *, uri: str, scratch: Path) -> list[str]:
    """Register a model folder and an untrained twin of it; the alias is at the first. Returns their URIs."""
    twin = scratch / "untrained"
    recipe, dims = read_recipe(folder), load_alignnet(folder).dims
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_model(AlignNet(recipe.alignnet, dims=dims), twin, recipe=recipe)
    versions = []
    for number, source in enumerate((folder, twin)):
        info = start_or_resume(
            tracking_uri=uri, experiment="load", run_name=str(number), key=str(number), params={}, tags={}
        )
        copy = shutil.copytree(source, scratch / f"copy{number}")
        versions.append(register(copy, name=NAME, info=info, manifest_digest="", card="# A model", aliases=()).uri)
    _point(uri, versions[0])
    return versions


async def moving(
    service: Service, versions: Sequence[str], *, uri: str, clients: int, seconds: float, every_s: float
) -> Switches:
    """Load while the alias goes round the versions. The same few prompts and seeds are asked for again and again."""
    moves = 0

    async def move() -> None:
        nonlocal moves
        deadline = time.monotonic() + seconds
        for version in itertools.islice(itertools.cycle(versions), 1, None):
            await asyncio.sleep(every_s)
            if time.monotonic() + every_s > deadline:
                return
            await asyncio.to_thread(_point, uri, version)
            moves += 1

    found = await load(service.url, _few(), clients=clients, seconds=seconds, beside=move)
    told = [(answer.asked_at, made.get("version", "")) for answer in found.answers for made in answer.told]
    order = [version for _, version in sorted(told)]
    changes = sum(before != after for before, after in itertools.pairwise(order))
    return Switches(found, moves, Counter(order), changes)


def _few(*, count: int = 4) -> Iterator[Body]:
    return itertools.cycle(itertools.islice(bodies(), count))


def _point(uri: str, version: str) -> None:
    MlflowClient(uri, uri).set_registered_model_alias(NAME, ALIAS, version.rpartition("/")[2])


def stopped_at_work(service: Service, wanted: Iterator[Body], *, jobs: int) -> Stopped:
    """Tell a service with jobs to stop, and read what became of them."""
    ids = []
    for body in itertools.islice(wanted, jobs):
        answer = httpx.post(f"{service.url}/v1/jobs", json=body, timeout=30).raise_for_status()
        ids.append(answer.json()["id"])
    signalled_at = time.time()
    exit_code, seconds = service.stop()
    paths = [service.state / "jobs" / f"{job_id}.json" for job_id in ids]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    ends = Counter(
        f"{record['status']}: {record['error']['message']}" if record["error"] else str(record["status"])
        for record in records
    )
    handed_back_s = max(record["finished_at"] or 0.0 for record in records) - signalled_at
    return Stopped(exit_code, seconds, handed_back_s, ends)
