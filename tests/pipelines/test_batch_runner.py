"""Batches of a service on a real Ray: made, killed and taken up again, cancelled, with no worker left behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from PIL import Image, ImageChops

from pipelines.batch_runner import RayRunner
from tests.pipelines.killed import run_until_images, written
from x2i_platform import fingerprint
from x2i_platform.config import Recipe
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.weights import identity
from x2i_platform.serving.batch_records import Batch
from x2i_platform.serving.batches import Batches
from x2i_platform.serving.files import FileStore
from x2i_platform.serving.pinned import Pinned

URL = "/v1/images/generations"
TIMEOUT_S = 120
ONE_BY_ONE = ("run.generate.batch_size=1",)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A worker has one CPU, so its sums are rounded as those of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def line(custom_id: str, **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": URL, "body": body})


@pytest.fixture(scope="module")
def session(ray_cluster: str) -> Iterator[None]:
    """As inside a replica: Ray is connected."""
    ray.init(ray_cluster, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pinned(model_folder: Path) -> Pinned:
    base = fingerprint.generation(read_recipe(model_folder))
    return Pinned(model_folder.name, str(model_folder), content=identity(str(model_folder)), base=base)


class Desk:
    """A service's batches; `start` is a new service on the same folder."""

    def __init__(self, folder: Path, pinned: Pinned) -> None:
        self.folder, self.pinned = folder, pinned
        self.start()

    def start(self) -> None:
        runner = RayRunner(tracking_uri=f"sqlite:///{self.folder}/none.db", overrides=ONE_BY_ONE)
        self.runner: RayRunner = pickle.loads(pickle.dumps(runner))  # as it travels
        self.files = FileStore(self.folder / "files")
        self.batches = Batches(
            self.files, self.runner, folder=self.folder / "batches", find=lambda _: self.pinned, poll_s=0.1
        )

    def create(self, *lines: str) -> Batch:
        with self.files.incoming() as upload:
            upload.write("\n".join(lines).encode())
            file = self.files.keep(upload, filename="in.jsonl", purpose="batch", owner="me")
        return self.batches.create(file, endpoint=URL, hours=1, metadata=None, owner="me")

    def step_until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not true():
            assert time.monotonic() < deadline
            asyncio.run(self.batches.step())
            time.sleep(0.05)

    def images(self, batch: Batch) -> dict[str, int]:
        return written(self.folder / "batches" / "work" / batch.id / "images")

    def again(self, batch: Batch) -> Batch:
        found = self.batches.get(batch.id, owner="me")
        assert found
        return found

    def lines(self, file_id: str | None) -> dict[str, Any]:
        record = self.files.get(str(file_id), owner="me")
        assert record
        found = [json.loads(text) for text in self.files.path(record).read_text().splitlines()]
        assert len({row["custom_id"] for row in found}) == len(found)
        return {row["custom_id"]: row for row in found}


@pytest.fixture
def desk(tmp_path: Path, pinned: Pinned, session: None) -> Desk:
    return Desk(tmp_path, pinned)


def actors(*names: str) -> list[psutil.Process]:
    """Processes of actors in the tests' cluster; Ray writes an actor's class over its command line."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(f"ray::{name}" in " ".join(process.cmdline()) for name in names):
                found.append(process)
    return found


def wait_until_no_actor_is_left() -> None:
    deadline = time.monotonic() + 30
    while left := actors("_Driver", "MapWorker"):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_good_and_bad_lines(desk: Desk, model_folder: Path) -> None:
    lines = [line("a", prompt="a red circle", seed=5), line("b", sede=1), line("c", prompt="word " * 300)]
    batch = desk.create(*lines, line("d", prompt="a blue square"))
    desk.step_until(lambda: batch.finished)
    assert (batch.status, batch.total, batch.completed, batch.failed) == ("completed", 4, 2, 2)
    output, errors = desk.lines(batch.output_file_id), desk.lines(batch.error_file_id)
    assert (list(output), list(errors)) == (["a", "d"], ["b", "c"])
    generator = Generator.load(model_folder)
    [expected] = generator.generate([ImageRequest("a red circle", 5, generator.recipe.generate)])
    body = output["a"]["response"]["body"]
    made = Image.open(io.BytesIO(base64.b64decode(body["data"][0]["b64_json"])))
    assert ImageChops.difference(made.convert("RGB"), expected.image).getbbox() is None
    assert {name: body[name] for name in desk.pinned.facts} == desk.pinned.facts
    assert "at most 128 fit" in errors["c"]["error"]["message"]
    wait_until_no_actor_is_left()


@pytest.mark.slow
def test_a_driver_that_is_killed_is_started_again_and_makes_what_is_missing(desk: Desk) -> None:
    batch = desk.create(*[line(str(n), prompt=f"a {n}", seed=n) for n in range(60)])
    desk.step_until(lambda: len(desk.images(batch)) > 2)
    assert actors("MapWorker")
    [driver] = actors("_Driver")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait(10)
    before = desk.images(batch)
    desk.step_until(lambda: batch.finished)
    assert (batch.status, batch.completed) == ("completed", 60)
    assert len(desk.lines(batch.output_file_id)) == 60
    assert 2 < len(before) < 60
    wait_until_no_actor_is_left()


def test_another_service_takes_it_up_and_makes_nothing_twice(desk: Desk) -> None:
    batch = desk.create(*[line(str(n), prompt=f"a {n}", seed=n) for n in range(60)])
    desk.step_until(lambda: len(desk.images(batch)) > 2)
    desk.runner.cancel(batch.id)  # as when its owner dies
    wait_until_no_actor_is_left()
    before = desk.images(batch)
    desk.start()
    kept: dict[str, int] = {}

    def finished() -> bool:
        kept.update(desk.images(batch))
        return desk.again(batch).finished

    desk.step_until(finished)
    ended = desk.again(batch)
    assert (ended.status, ended.completed) == ("completed", 60)
    assert {name: kept[name] for name in before} == before
    assert len(desk.lines(ended.output_file_id)) == 60


@pytest.mark.slow
def test_a_service_that_is_killed_leaves_nobody_behind_and_the_next_one_goes_on(desk: Desk, ray_cluster: str) -> None:
    """A process of its own is the service, and is killed with -9."""
    batch = desk.create(*[line(str(n), prompt=f"a {n}", seed=n) for n in range(60)])
    (desk.folder / "pinned").write_bytes(pickle.dumps(desk.pinned))
    code = (
        "import pickle, sys, ray; from pathlib import Path; from tests.pipelines.test_batch_runner import Desk\n"
        "ray.init(sys.argv[1], log_to_driver=False)\n"
        "folder = Path(sys.argv[2])\n"
        "Desk(folder, pickle.loads((folder / 'pinned').read_bytes())).step_until(lambda: False)"
    )
    work = desk.folder / "batches" / "work" / batch.id / "images"
    command = [sys.executable, "-c", code, ray_cluster, str(desk.folder)]
    before = run_until_images(command, work, count=3)
    wait_until_no_actor_is_left()
    assert 3 <= len(before) < 60
    desk.start()
    desk.step_until(lambda: desk.again(batch).finished)
    ended = desk.again(batch)
    assert (ended.status, ended.completed) == ("completed", 60)
    assert len(desk.lines(ended.output_file_id)) == 60


def test_cancelled_it_keeps_what_is_made_and_leaves_nobody_behind(desk: Desk) -> None:
    batch = desk.create(*[line(str(n), prompt=f"a {n}", seed=n) for n in range(200)])
    desk.step_until(lambda: batch.completed > 2)
    desk.batches.cancel(batch)
    desk.step_until(lambda: batch.finished)
    assert batch.status == "cancelled"
    assert 2 < batch.completed < 200
    assert len(desk.lines(batch.output_file_id)) == batch.completed
    codes = {row["error"]["code"] for row in desk.lines(batch.error_file_id).values()}
    assert codes == {"batch_cancelled"}
    wait_until_no_actor_is_left()


def test_a_model_that_changed_fails_the_batch(
    tmp_path: Path, make_model: Callable[..., Path], mini_recipe: Recipe, session: None
) -> None:
    folder = make_model(mini_recipe)
    desk = Desk(tmp_path, Pinned(folder.name, str(folder), content=identity(str(folder)), base=None))
    (folder / "recipe.json").write_text(mini_recipe.model_copy(update={"name": "other"}).model_dump_json())
    batch = desk.create(line("a", prompt="a"))
    desk.step_until(lambda: batch.finished)
    assert batch.status == "failed"
    assert str(tmp_path) not in json.dumps(batch.body())
    wait_until_no_actor_is_left()
