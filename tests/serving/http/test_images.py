"""Images over HTTP, with real models in the same process: answers, streams, edits, cancels."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageChops

from tests.media import hostile
from tests.serving.by_hand import asked, by_hand, until
from tests.serving.local_service import Running
from x2i_platform.config import Recipe
from x2i_platform.generation.content import parse_prompt
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.generation.loading import load_prompt
from x2i_platform.serving.http.images import EventStream

ROUTE, EDITS = "/v1/images/generations", "/v1/images/edits"
PICTURE = hostile.picture()
URL = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"


@pytest.fixture(scope="module")
def generator(model_folder: Path) -> Generator:
    return Generator.load(model_folder)


def opened(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def worst_level(left: Image.Image, right: Image.Image) -> int:
    """The largest difference between two images' pixels, of 255."""
    return int(np.asarray(ImageChops.difference(left.convert("RGB"), right.convert("RGB"))).max())


def events(lines: Iterator[str]) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of server-sent events."""
    found: list[tuple[str, dict[str, Any]]] = []
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((name, json.loads(line.removeprefix("data: "))))
    return found


def test_an_image_is_the_generators_with_seed_size_and_version(http: httpx.Client, generator: Generator) -> None:
    answer = http.post(ROUTE, json={"prompt": "a red circle", "n": 2, "seed": 7, "size": "96x64", "guidance_scale": 2})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [entry["seed"] for entry in body["data"]] == [7, 8]
    assert (body["size"], body["output_format"], body["model"]) == ("96x64", "png", "untrained")
    settings = generator.recipe.generate.model_copy(update={"width": 96, "height": 64, "guidance": 2.0})
    expected = generator.generate([ImageRequest("a red circle", seed, settings) for seed in (7, 8)])
    for entry, made in zip(body["data"], expected, strict=True):
        with opened(entry["b64_json"]) as image:
            assert worst_level(image, made.image) <= 1
            how = json.loads(image.info["x2i"])
            assert (image.info["prompt"], how["seed"], how["digest"]) == ("a red circle", entry["seed"], body["digest"])


def test_a_stream_shows_partial_images_and_then_the_same_image(http: httpx.Client) -> None:
    fields = {"prompt": "a red circle", "seed": 3, "num_inference_steps": 6}
    plain = http.post(ROUTE, json=fields).json()
    with http.stream("POST", ROUTE, json={**fields, "stream": True, "partial_images": 2}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = events(answer.iter_lines())
    names = [name for name, _ in found]
    assert names == [*["image_generation.partial_image"] * 2, "image_generation.completed"]
    assert [data["partial_image_index"] for _, data in found[:2]] == [0, 1]
    assert all(data["type"] == name for name, data in found)
    final = found[-1][1]
    assert (final["seed"], final["version"]) == (3, plain["version"])
    with opened(final["b64_json"]) as image, opened(plain["data"][0]["b64_json"]) as expected:
        assert worst_level(image, expected) <= 1
        with opened(found[0][1]["b64_json"]) as partial:
            assert partial.size == image.size
            assert worst_level(partial, image) > 1


def test_a_stream_of_one_step_has_only_its_image_and_a_bad_one_its_status(http: httpx.Client) -> None:
    with http.stream(
        "POST", ROUTE, json={"prompt": "a", "stream": True, "partial_images": 3, "num_inference_steps": 1}
    ) as answer:
        assert [name for name, _ in events(answer.iter_lines())] == ["image_generation.completed"]
    long = http.post(ROUTE, json={"prompt": "word " * 400, "stream": True})
    assert (long.status_code, long.json()["error"]["param"]) == (400, "prompt")


def test_an_edit_as_json_and_as_a_form_is_a_prompt_with_its_images_first(
    http: httpx.Client, generator: Generator
) -> None:
    said = [{"type": "image", "image": URL}, {"type": "text", "text": "make it blue"}]
    prompt = load_prompt(parse_prompt(said, folder=None), media=generator.recipe.media)
    [expected] = generator.generate([ImageRequest(prompt, 5, generator.recipe.generate)])
    as_json = http.post(EDITS, json={"images": [{"image_url": URL}], "prompt": "make it blue", "seed": 5})
    form = {"prompt": "make it blue", "seed": "5", "n": "1"}
    as_form = http.post(EDITS, data=form, files={"image": ("cat.png", PICTURE, "image/png")})
    listed = http.post(EDITS, data=form, files=[("image[]", ("cat", PICTURE, "application/octet-stream"))])
    for answer in (as_json, as_form, listed):
        assert answer.status_code == 200, answer.text
        with opened(answer.json()["data"][0]["b64_json"]) as image:
            assert worst_level(image, expected.image) <= 1
    with http.stream(
        "POST", EDITS, data={**form, "stream": "true"}, files={"image": ("cat.png", PICTURE, "image/png")}
    ) as answer:
        assert [name for name, _ in events(answer.iter_lines())] == ["image_edit.completed"]


@pytest.mark.parametrize(
    ("fields", "files", "message"),
    [
        ({"prompt": "a"}, {}, "images: List should have at least 1 item"),
        ({}, {"image": PICTURE}, "prompt: Field required"),
        ({"prompt": " "}, {"image": PICTURE}, "prompt: must not be blank"),
        ({"prompt": "a"}, {"image": PICTURE, "mask": PICTURE}, "mask: no file is taken here"),
        ({"prompt": "a", "seed": "x"}, {"image": PICTURE}, "seed: Input should be a valid integer"),
        ({"prompt": "a"}, {"image": PICTURE[:100]}, "truncated"),
        ({"prompt": "a"}, {"image": b"<svg/>"}, "data URL of image"),
        ({"prompt": "a", "answer": "{"}, {"image": PICTURE}, "answer: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_edit_is_the_clients_mistake(
    http: httpx.Client, fields: dict[str, str], files: dict[str, bytes], message: str
) -> None:
    form: dict[str, Any] = {name: (name, content, "image/png") for name, content in files.items()}
    answer = http.post(EDITS, data=fields, files=form or {"nothing": (None, "")})
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


def test_who_goes_away_leaves_nothing_running(served: Running, http: httpx.Client) -> None:
    """Twenty streams and twenty plain requests of a minute each, all given up; then the service is as before."""
    body = {"prompt": "a red circle", "num_inference_steps": 200, "size": "512x512"}
    cancels = served.parts.service.metrics.cancels._value.get()
    for stream in (True, False):
        for _ in range(20):
            with pytest.raises(httpx.TimeoutException):
                http.post(ROUTE, json={**body, "stream": stream}, timeout=0.05)
    deadline = time.monotonic() + 20
    while served.call(lambda: served.parts.service.queue.working) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert served.call(lambda: (served.parts.service.queue.working, len(served.parts.service.queue))) == (0, 0)
    assert served.parts.service.metrics.cancels._value.get() >= cancels + 20
    gone = served.parts.service.metrics.answers.labels(ROUTE, 499)._value.get()
    assert gone >= 20, "that somebody went is no error of the service"
    began = time.monotonic()
    assert http.post(ROUTE, json={"prompt": "a"}).status_code == 200
    assert time.monotonic() - began < 10


async def test_a_stream_whose_client_went_before_it_began_ends_its_work(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe)
    order = service.submit(asked(stream=True))
    await until(lambda: backend.at_work)

    async def never() -> AsyncIterator[bytes]:
        await asyncio.sleep(60)
        yield b""

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def nowhere(_: Any) -> None:
        await asyncio.sleep(0)

    await EventStream(never(), order)({"type": "http", "asgi": {"spec_version": "2.3"}}, gone, nowhere)
    await until(order.work.cancelled)
    await until(lambda: not service.queue.working)
    assert backend.at_work == 0


def test_past_the_queue_is_429_with_the_time_to_wait(served: Running, http: httpx.Client) -> None:
    queue = served.parts.service.queue
    bounds = vars(queue).copy()
    served.call(lambda: vars(queue).update(limit=0, slots=0))
    try:
        answer = http.post(ROUTE, json={"prompt": "a"})
    finally:
        served.call(lambda: vars(queue).update(limit=bounds["limit"], slots=bounds["slots"]))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    assert answer.json()["error"]["code"] == "queue_full"


def test_figures_are_counted(http: httpx.Client) -> None:
    http.post(ROUTE, json={"prompt": "a", "num_inference_steps": 3})
    http.get("/v1/jobs/job_nothing")
    text = http.get("/metrics").text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures["x2i_denoising_steps_total"]) >= 3
    assert float(figures['x2i_stage_seconds_count{stage="denoise"}']) >= 1
    assert float(figures['x2i_http_answers_total{route="/v1/jobs/{job_id}",status="404"}']) >= 1
    for name in ("x2i_queue_depth", "x2i_queue_seconds_count", "x2i_batch_size_count", "x2i_steps_per_second_count"):
        assert name in figures


def test_models_are_listed_with_their_defaults(http: httpx.Client) -> None:
    [model] = http.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["defaults"]["num_inference_steps"]) == ("untrained", "model", 2)
    assert http.get("/v1/models/untrained").json() == model
    assert http.get("/v1/models/dall-e-3").status_code == 404
    assert http.post(ROUTE, json={"prompt": "a", "model": "dall-e-3"}).json()["error"]["code"] == "model_not_found"
    assert http.get("/ready").json()["status"] == "ready"
    assert http.get("/health").json() == {"status": "ok"}
