"""A real service under load and faults: what clients see of a crowd, of replicas that die, of aliases that move.

The same scenarios, larger and with figures: `benchmarks/serving.py`.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from service_faults import ALIAS, NAME, cancel, is_idle, killing, moving, stopped_at_work, two_versions
from service_load import OK, Load, asked_for, bodies, load
from service_process import Kind, Service, serving, wait_until

from x2i_platform.mini.checkpoints import folder_of

pytestmark = pytest.mark.slow

FLAGS = ("--max-batch=4", "--queue=8", "--follow=0.5", "--grace=8")
BOUND = 2 * 4 + 8
"""Requests that such a service takes at once: two batches of a denoiser, and those that wait."""


@pytest.fixture(scope="module")
def service(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(str(model_folder), folder=tmp_path_factory.mktemp("service"), flags=FLAGS) as service:
        yield service


def crowd(service: Service, *, clients: int, seconds: float) -> tuple[Load, float]:
    """The answers to a number of clients, and the longest queue that was seen meanwhile."""
    longest = 0.0

    async def look() -> None:
        nonlocal longest
        for _ in range(int(seconds * 4)):
            longest = max(longest, (await asyncio.to_thread(service.figures))["x2i_queue_depth"])
            await asyncio.sleep(0.25)

    return asyncio.run(load(service.url, bodies(), clients=clients, seconds=seconds, beside=look)), longest


def test_a_crowd_that_fits_is_served_and_one_more_than_fits_is_told_to_come_again(service: Service) -> None:
    fits, _ = crowd(service, clients=BOUND, seconds=10)
    assert set(fits.statuses) == {OK}
    assert len(fits.answers) > BOUND
    assert service.figures()["x2i_batch_size_sum"] > service.figures()["x2i_batch_size_count"], "nothing was batched"
    more, longest = crowd(service, clients=3 * BOUND, seconds=10)
    assert set(more.statuses) == {OK, 429}
    assert longest <= 8
    assert wait_until(lambda: is_idle(service), timeout_s=30)


def test_work_that_is_given_up_leaves_nothing_running(service: Service) -> None:
    before = service.figures()["x2i_cancels_total"]
    ways = asyncio.run(cancel(service.url, count=200, at_once=12))
    assert not [way for way in ways if way.startswith("answered")], ways
    assert wait_until(lambda: is_idle(service), timeout_s=20)
    # Who leaves at once may never have been heard; a job always was.
    assert service.figures()["x2i_cancels_total"] - before >= ways["cancelled its job"] > 60
    after = asyncio.run(asked_for(service.url, bodies(), count=50, clients=8))
    assert after.statuses == {OK: 50}
    assert wait_until(lambda: is_idle(service), timeout_s=20)


@pytest.mark.parametrize(
    ("kind", "least_lost"),
    [
        ("DenoiserReplica", 1),
        ("EncoderReplica", 0),  # prompts are read in bursts, so it may be idle when it dies
    ],
)
def test_a_replica_that_dies_under_load_costs_a_client_at_most_one_retry(
    service: Service, kind: Kind, least_lost: int
) -> None:
    lost = service.figures()["x2i_replicas_lost_total"]
    [before] = service.replicas(kind)
    found = asyncio.run(killing(service, [kind], clients=BOUND, seconds=30))
    assert found.succeeded >= 0.99, found.statuses
    assert service.figures()["x2i_replicas_lost_total"] - lost >= least_lost, "nobody was at work when it died"
    [after] = service.replicas(kind)
    assert after.pid != before.pid


def test_jobs_of_a_service_that_stops_are_finished_or_handed_back(model_folder: Path, tmp_path: Path) -> None:
    grace_s = 20
    with serving(str(model_folder), folder=tmp_path, flags=(*FLAGS, f"--grace={grace_s}")) as service:
        below = psutil.Process(service.process.pid).children(recursive=True)
        quick, endless = bodies(), bodies(num_inference_steps=200, size="768x768")
        wanted = (next(quick if number < 4 else endless) for number in range(8))
        found = stopped_at_work(service, wanted, jobs=8)
    assert dict(found.jobs) == {"succeeded": 4, "failed: shutting down": 4}, found
    assert found.exit_code == 0
    assert found.handed_back_s <= found.seconds <= grace_s
    assert not [process for process in psutil.wait_procs(below, timeout=5)[1] if process.status() != "zombie"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.url}/health")


def test_every_image_of_an_alias_that_moves_is_by_one_version(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    versions = two_versions(folder_of("alignnet"), uri=uri, scratch=tmp_path)
    flags = (*FLAGS, f"--tracking-uri={uri}")
    with serving(f"models:/{NAME}@{ALIAS}", folder=tmp_path, flags=flags) as service:
        found = asyncio.run(moving(service, versions, uri=uri, clients=8, seconds=25, every_s=4))
    assert set(found.load.statuses) == {OK}
    assert set(found.versions) == set(versions)
    assert found.moves >= 4
    assert found.changes >= found.moves
    drawn: dict[tuple[int, str], list[bytes]] = {}
    for answer in found.load.answers:
        [made], [file] = answer.told, answer.files
        assert made["version"] == answer.content["version"]
        drawn.setdefault((answer.body["seed"], made["version"]), []).append(file)
    seeds = {seed for seed, _ in drawn}
    for seed in seeds:
        one, other = (drawn[seed, version] for version in versions)
        # A batch of another size rounds differently; another AlignNet draws something else.
        assert max(level(same[0], file) for same in (one, other) for file in same) <= 2
        assert level(one[0], other[0]) > 50


def level(left: bytes, right: bytes) -> int:
    """The largest difference between two images' pixels, of 255."""
    one, other = (np.asarray(Image.open(io.BytesIO(file)), dtype=np.int16) for file in (left, right))
    return int(np.abs(one - other).max())
