"""`/v1/jobs`, with real models in the same process; each key sees its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import local_service
from tests.serving.local_service import Parts, Running
from x2i_platform.serving.http.guards import GuardConfig, guarded
from x2i_platform.serving.keys import ApiKey

KEYS = {name: f"{name}-0123456789abcdef0123" for name in ("alice", "bob")}


@pytest.fixture(scope="module")
def served(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Behind guard rails with two keys."""
    state = tmp_path_factory.mktemp("state")
    config = GuardConfig(keys=tuple(ApiKey.of(name, key) for name, key in KEYS.items()))

    def make() -> Parts:
        parts = local_service.local_service(model_folder, state)
        return dataclasses.replace(parts, app=guarded(parts.app, config))

    with local_service.running(make) as server:
        yield server


def client(served: Running, name: str) -> httpx.Client:
    return httpx.Client(base_url=f"{served.url}/v1", headers={"Authorization": f"Bearer {KEYS[name]}"}, timeout=60)


def ended(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while job["status"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
        job = http.get(f"/jobs/{job['id']}").json()
    return job


def test_a_job_is_made_and_its_result_is_an_answer_of_generations(served: Running) -> None:
    with client(served, "alice") as http:
        submitted = http.post("/jobs", json={"prompt": "a red circle", "seed": 7, "n": 2})
        assert submitted.status_code == 202
        job = ended(http, submitted.json())
        assert (job["status"], job["step"], job["error"], job["model"]) == (
            "succeeded",
            job["steps"],
            None,
            "untrained",
        )
        made = http.get(f"/jobs/{job['id']}/result").json()
        now = http.post("/images/generations", json={"prompt": "a red circle", "seed": 7, "n": 2}).json()
        assert [entry["seed"] for entry in made["data"]] == [7, 8]
        assert made["data"] == now["data"]
        assert http.get("/jobs").json()["data"][0] == job
        assert http.delete(f"/jobs/{job['id']}").status_code == 200
        assert http.get(f"/jobs/{job['id']}").status_code == 404


def test_a_job_is_its_owners_alone(served: Running) -> None:
    with client(served, "alice") as alice, client(served, "bob") as bob:
        job = alice.post("/jobs", json={"prompt": "a"}).json()
        for answer in (
            bob.get(f"/jobs/{job['id']}"),
            bob.delete(f"/jobs/{job['id']}"),
            bob.get(f"/jobs/{job['id']}/result"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert bob.get("/jobs").json()["data"] == []
        assert ended(alice, job)["status"] == "succeeded"
    assert httpx.get(f"{served.url}/v1/jobs").status_code == 401


def test_a_running_job_is_cancelled_and_has_no_result(served: Running) -> None:
    with client(served, "alice") as http:
        job = http.post("/jobs", json={"prompt": "a", "num_inference_steps": 200, "size": "512x512"}).json()
        while not (seen := http.get(f"/jobs/{job['id']}").json())["step"]:
            time.sleep(0.02)
        assert 0 < seen["step"] < seen["steps"] == 200
        assert http.delete(f"/jobs/{job['id']}").json()["status"] == "cancelled"
        refused = http.get(f"/jobs/{job['id']}/result")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_result")


def test_a_wrong_job_is_refused_and_a_bad_prompt_fails(served: Running) -> None:
    with client(served, "alice") as http:
        assert http.post("/jobs", json={"prompt": "a", "stream": True}).json()["error"]["param"] == "stream"
        assert http.post("/jobs", json={"prompt": ""}).status_code == 400
        assert http.post("/jobs", json={"prompt": "a", "model": "no"}).status_code == 404
        job = ended(http, http.post("/jobs", json={"prompt": "word " * 400}).json())
        assert (job["status"], "tokens" in job["error"]["message"]) == ("failed", True)


def test_a_result_that_somebody_tidied_up_is_gone(served: Running) -> None:
    with client(served, "alice") as http:
        job = ended(http, http.post("/jobs", json={"prompt": "a"}).json())
        (served.parts.jobs.folder / "results" / f"{job['id']}.json").unlink()
        answer = http.get(f"/jobs/{job['id']}/result")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert str(served.parts.jobs.folder) not in answer.text
