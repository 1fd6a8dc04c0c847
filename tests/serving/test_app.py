"""A real Ray Serve over HTTP: images, refusals in OpenAI's words, a bounded queue, and a clean end."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import ray.serve
from PIL import Image, ImageChops
from ray.serve.schema import ReplicaState
from service_process import Service, serving

from pipelines.serve import Endpoint, run
from tests.conftest import free_port
from tests.media import hostile
from x2i_platform.config import Recipe
from x2i_platform.errors import ClusterError, ConfigError
from x2i_platform.files import locked
from x2i_platform.generation.content import parse_prompt
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.generation.loading import load_prompt
from x2i_platform.serving.app import Replicas, build

ROUTE = "/v1/images/generations"


@dataclass
class Server:
    """A running `x2i-platform serve`, and a client for it."""

    service: Service
    http: httpx.Client
    model: Path

    def figure(self, name: str) -> float:
        """One of Prometheus' figures."""
        return self.service.figures()[name]

    def post(self, **fields: Any) -> httpx.Response:
        return self.http.post(ROUTE, json=fields)


@pytest.fixture(scope="module")
def server(model_folder: Path, ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, flags = tmp_path_factory.mktemp("service"), ("--queue=2", "--max-batch=2", "--grace=3")
    with (
        serving(
            model_folder.name,
            folder=folder,
            flags=(f"--address={ray_cluster}", *flags),
            started_in=model_folder.parent,
        ) as service,
        httpx.Client(base_url=service.url, timeout=60) as http,
    ):
        yield Server(service, http, model_folder)


def command_line(process: psutil.Process) -> str:
    """Its words; none of a process of somebody else's that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def images(response: httpx.Response) -> list[bytes]:
    assert response.status_code == 200, response.text
    return [base64.b64decode(entry["b64_json"]) for entry in response.json()["data"]]


def worst_level(left: bytes, right: bytes) -> int:
    """The largest difference between two images' pixels, of 255."""
    with Image.open(io.BytesIO(left)) as one, Image.open(io.BytesIO(right)) as two:
        return int(np.asarray(ImageChops.difference(one, two)).max())


def test_the_service_says_that_it_lives_and_what_it_serves(server: Server) -> None:
    assert server.http.get("/health").json() == {"status": "ok"}
    ready = server.http.get("/ready").json()
    name = server.model.name
    assert ready == {"status": "ready", "model": name, "version": name, "digest": ready["digest"]}
    assert len(ready["digest"]) == 16
    assert server.post(prompt="a red circle").json().items() >= {key: ready[key] for key in ("model", "digest")}.items()


def test_every_request_has_its_line_in_the_audit_log(server: Server) -> None:
    assert server.post(prompt="a secret circle", model="dall-e-3").status_code == 404
    lines = (server.service.state / "audit.jsonl").read_text().splitlines()
    last = [line for line in map(json.loads, lines) if line["route"] == ROUTE][-1]
    assert (last["status"], last["method"], last["key"]) == (404, "POST", None)
    assert not any("secret" in line for line in lines)


def test_another_models_name_is_not_found(server: Server) -> None:
    answer = server.post(prompt="a red circle", model="dall-e-3")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert error["message"].endswith(f"this service has '{server.model.name}'")
    assert server.post(prompt="a red circle", model=server.model.name, n=None, size=None).status_code == 200


def test_a_seed_makes_the_same_bytes_and_its_successors(server: Server) -> None:
    both = server.post(prompt="a red circle", n=2, seed=7)
    again = server.post(prompt="a red circle", seed=8)
    assert [entry["seed"] for entry in both.json()["data"]] == [7, 8]
    first, second = images(both)
    assert first != second
    assert images(server.post(prompt="a red circle", n=2, seed=7)) == [first, second]
    [alone] = images(again)
    assert [alone] == images(server.post(prompt="a red circle", seed=8))
    assert worst_level(alone, second) <= 1  # a batch of another size rounds differently


def test_pictures_and_dialogues_are_taken_and_the_answer_comes_back(server: Server) -> None:
    url = f"data:image/png;base64,{base64.b64encode(hostile.picture()).decode()}"
    shown = {"type": "image_url", "image_url": {"url": url}}
    said = [
        {"role": "user", "content": [shown]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [{"type": "text", "text": "in blue"}, {**shown, "weight": 0.5}]},
    ]
    answer = server.post(messages=said, states="both", seed=4)
    [content] = images(answer)
    generator = Generator.load(server.model)
    prompt = load_prompt(parse_prompt(said, folder=None), media=generator.recipe.media)
    settings = generator.recipe.generate.model_copy(update={"states": "both"})
    [expected] = generator.generate([ImageRequest(prompt, 4, settings)])
    assert answer.json()["data"][0]["revised_prompt"] == expected.answer
    with Image.open(io.BytesIO(content)) as image:
        assert (image.info["prompt"], image.info["answer"]) == ("in blue", expected.answer)
        assert int(np.asarray(ImageChops.difference(image, expected.image)).max()) <= 1
    cut = base64.b64encode(hostile.picture()[:200]).decode()
    damaged = server.post(prompt=[{"type": "image", "image": f"data:image/png;base64,{cut}"}])
    assert damaged.status_code == 400
    assert (damaged.json()["error"]["param"], "truncated" in damaged.text) == ("prompt", True)


def test_without_a_seed_each_answer_differs_and_tells_its_seed(server: Server) -> None:
    answers = [server.post(prompt="a red circle") for _ in range(2)]
    [left], [right] = map(images, answers)
    assert left != right
    seed = answers[0].json()["data"][0]["seed"]
    assert 0 <= seed < 2**53
    assert images(server.post(prompt="a red circle", seed=seed)) == [left]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "the body is not JSON"),
        ("", "the body"),
        ("[]", "the body"),
        ('{"prompt": " "}', "prompt: must not be blank"),
        ('{"prompt": "a", "sede": 1}', "sede: unknown field; did you mean 'seed'?"),
        ('{"prompt": "a", "size": "17x17"}', "size: must be WIDTHxHEIGHT"),
        ('{"prompt": "a", "n": 0}', "n: Input should be greater than or equal to 1"),
        ('{"prompt": "\\ud800"}', "prompt: must be valid Unicode"),
        ('{"prompt": "%s"}' % ("word " * 300), "prompt of 1208 tokens, at most 128 fit"),
    ],
)
def test_a_wrong_request_is_refused_in_openais_words(server: Server, body: str, message: str) -> None:
    response = server.http.post(ROUTE, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    assert str(server.model.parent) not in response.text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nothing", 404), ("GET", ROUTE, 405)])
def test_a_wrong_route_is_refused_in_openais_words(server: Server, method: str, path: str, status: int) -> None:
    response = server.http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_stream_comes_through_and_who_leaves_it_ends_the_work(server: Server) -> None:
    fields = {"prompt": "a red circle", "seed": 7, "stream": True, "partial_images": 2, "num_inference_steps": 6}
    with server.http.stream("POST", ROUTE, json=fields) as answer:
        names = [line.partition(": ")[2] for line in answer.iter_lines() if line.startswith("event: ")]
    assert names == [*["image_generation.partial_image"] * 2, "image_generation.completed"]
    endless = {**fields, "num_inference_steps": 200, "size": "768x768"}
    with server.http.stream("POST", ROUTE, json=endless) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("event: image_generation.partial_image")
        assert server.figure("x2i_requests_at_work") == 1
    with pytest.raises(httpx.TimeoutException):
        server.http.post(ROUTE, json={**endless, "stream": False}, timeout=1)
    wait_for(lambda: server.figure("x2i_requests_at_work") == 0)


def test_a_job_is_made_cancelled_and_kept_from_others(server: Server) -> None:
    quick = server.http.post("/v1/jobs", json={"prompt": "a red circle", "seed": 8})
    assert (quick.status_code, quick.json()["object"]) == (202, "job")
    wait_for(lambda: server.http.get(f"/v1/jobs/{quick.json()['id']}").json()["status"] == "succeeded")
    made = images(server.http.get(f"/v1/jobs/{quick.json()['id']}/result"))
    assert worst_level(made[0], images(server.post(prompt="a red circle", seed=8))[0]) <= 1

    endless = {"prompt": "a", "num_inference_steps": 200, "size": "768x768"}
    place = f"/v1/jobs/{server.http.post('/v1/jobs', json=endless).json()['id']}"
    wait_for(lambda: server.http.get(place).json()["step"] > 0)
    assert server.http.delete(place).json()["status"] == "cancelled"
    assert server.http.get(f"{place}/result").status_code == 409
    wait_for(lambda: server.figure("x2i_requests_at_work") == 0)


def test_a_burst_is_answered_with_429_and_what_was_queued_is_made(server: Server) -> None:
    def ask(seed: int) -> httpx.Response:
        fields = {"prompt": "a red circle", "seed": seed, "num_inference_steps": 60}
        return httpx.post(f"{server.http.base_url}{ROUTE}", json=fields, timeout=120)

    with ThreadPoolExecutor(12) as threads:
        asked = [threads.submit(ask, seed) for seed in range(12)]
        time.sleep(0.5)
        assert server.http.get("/ready").json()["status"] == "ready"
        assert server.http.get("/health").status_code == 200
        responses = [each.result() for each in asked]
    statuses = Counter(response.status_code for response in responses)
    assert set(statuses) == {200, 429}
    assert statuses[200] >= 2
    refusal = next(response for response in responses if response.status_code == 429)
    assert int(refusal.headers["Retry-After"]) > 0
    assert refusal.json()["error"]["type"] == "server_overloaded"
    assert images(server.post(prompt="a", seed=1))


def test_a_cluster_that_serves_already_is_left_alone(server: Server, ray_cluster: str) -> None:
    with pytest.raises(ClusterError, match="runs Ray Serve already"):
        serve(server.model, port=free_port(), address=ray_cluster)
    assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize("kind", ["EncoderReplica", "DenoiserReplica"])
def test_a_request_outlives_its_replica_and_the_next_is_the_same_model(
    server: Server, ray_cluster: str, kind: str
) -> None:
    before = server.http.get("/ready").json()
    wanted = {"prompt": f"a red circle, {kind}", "seed": 3, "num_inference_steps": 200, "size": "256x256"}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(lambda: server.post(**wanted))
        wait_for(lambda: server.figure("x2i_requests_at_work") == 1)
        [replica] = [process for process in replicas(ray_cluster) if kind in process.name() + command_line(process)]
        replica.kill()
        wait_for(lambda: server.http.get("/ready").status_code == 503)
        assert server.http.get("/ready").json()["status"] == "no replica"
        [image] = images(asked.result())
    wait_for(lambda: server.http.get("/ready").json() == before)
    assert worst_level(image, images(server.post(**wanted))[0]) <= 1


def replicas(ray_cluster: str) -> list[psutil.Process]:
    """The processes of this cluster's replicas of models."""
    return [
        process
        for process in psutil.process_iter()
        if "ServeReplica:x2i-platform:" in process.name() + command_line(process)
        and f"--gcs-address={ray_cluster}" in command_line(psutil.Process(process.ppid()))
    ]


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.05)


def test_sigterm_hands_jobs_back_as_failed_and_a_new_service_knows_them(server: Server) -> None:
    endless = {"prompt": "a", "num_inference_steps": 200, "size": "768x768"}
    ids = [server.http.post("/v1/jobs", json=endless).json()["id"] for _ in range(3)]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lambda: server.post(**endless))
        wait_for(lambda: server.figure("x2i_requests_at_work") == 4)
        server.service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.http.get("/ready").status_code == 503)
        assert server.post(prompt="a").json()["error"]["message"] == "shutting down"
        assert (waiting.result().status_code, waiting.result().json()["error"]["message"]) == (503, "shutting down")
    # Ray kills a replica that still works after 20 s; none may.
    assert server.service.process.wait(timeout=18) == 0
    output = server.service.log.read_text()
    assert f"serving untrained at {server.service.url}" in " ".join(output.split())
    assert "Traceback" not in output
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", server.service.port))
    records = [json.loads((server.service.state / "jobs" / f"{job_id}.json").read_text()) for job_id in ids]
    assert [(record["status"], record["error"]["message"]) for record in records] == [("failed", "shutting down")] * 3


def serve(model: Path, *, port: int, address: str | None) -> None:
    run(
        {"model": str(model), "tracking_uri": "sqlite:////nowhere/mlflow.db", "state": str(model.parent / "state")},
        Endpoint(port=port),
        address=address,
        on_ready=lambda url: os.kill(os.getpid(), signal.SIGTERM),
    )


def test_the_grace_time_holds_ray_s_own_end() -> None:
    assert [Endpoint(grace_s=seconds).work_s for seconds in (0, 4, 30)] == [0, 2, 22]


def test_a_port_in_use_is_named(model_folder: Path, ray_cluster: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=rf"127\.0\.0\.1:{port} can't be listened on; is the port taken"):
            serve(model_folder, port=port, address=ray_cluster)


def test_a_port_that_would_be_shared_is_refused_before_anything_starts(model_folder: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as Ray Serve's proxies do
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ClusterError, match="is the port taken"):
            serve(model_folder, port=taken.getsockname()[1], address=None)


def test_a_state_folder_has_one_service(model_folder: Path) -> None:
    state = model_folder.parent / "state"
    with locked(state / "lock"), pytest.raises(ConfigError, match=f"folder {state} is in use by another service"):
        serve(model_folder, port=free_port(), address=None)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_an_error_and_not_an_endless_wait(
    make_model: Callable[..., Path], mini_recipe: Recipe, ray_cluster: str
) -> None:
    model = make_model(mini_recipe, num_layers=9)
    with pytest.raises(ClusterError) as caught:
        serve(model, port=free_port(), address=ray_cluster)
    mllm = "MLLM 'mini:random-qwen2.5-vl' gives 5 of width 64"
    assert str(caught.value) == f"the model can't be served: AlignNet reads 9 layers of width 64, {mllm}"


async def test_nothing_is_ready_before_its_replicas_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.serve, "status", lambda: SimpleNamespace(applications={}))
    encoder, denoiser = (SimpleNamespace(deployment_name=name, app_name="x2i-platform") for name in ("E", "D"))
    assert await Replicas(encoder, denoiser, recovery_s=30).ready() == "no replica"


async def test_after_an_idle_time_nobody_is_refused_while_another_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    running = SimpleNamespace(replica_states={ReplicaState.RUNNING: 1})
    status = SimpleNamespace(applications={"x2i-platform": SimpleNamespace(deployments={"E": running, "D": running})})
    looks = []

    def look() -> Any:
        looks.append(time.monotonic())
        time.sleep(0.1)
        return status

    monkeypatch.setattr(ray.serve, "status", look)
    encoder, denoiser = (SimpleNamespace(deployment_name=name, app_name="x2i-platform") for name in ("E", "D"))
    backend = Replicas(encoder, denoiser, recovery_s=0)
    assert await asyncio.gather(*(backend.ready() for _ in range(4))) == [None] * 4
    assert len(looks) == 1


def test_the_application_refuses_arguments_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="unknown serving argument 'modle'"):
        build({"modle": "x"})
    with pytest.raises(ConfigError, match="needs the argument 'model'"):
        build({})
    with pytest.raises(ConfigError, match="'replicas': 'many' is neither a number nor a range such as 1-4"):
        build({"model": "x", "replicas": "many"})
