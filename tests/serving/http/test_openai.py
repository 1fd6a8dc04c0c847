"""The service as OpenAI's own client uses it, unchanged."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from openai import OpenAI
from PIL import Image, ImageChops

from tests.media import hostile
from tests.serving.local_service import Running

PICTURE = hostile.picture()


@pytest.fixture
def client(served: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def opened(encoded: str | None) -> Image.Image:
    assert encoded
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    image.load()
    return image


def worst_level(left: Image.Image, right: Image.Image) -> int:
    """The largest difference between two images' pixels, of 255."""
    return int(np.asarray(ImageChops.difference(left.convert("RGB"), right.convert("RGB"))).max())


def test_images_are_generated_and_say_what_they_are(client: OpenAI) -> None:
    made = client.images.generate(
        prompt="a red circle",
        model="untrained",
        n=2,
        size="96x64",
        response_format="b64_json",
        user="ann",
        extra_body={"seed": 7, "num_inference_steps": 3},
    )
    assert abs(made.created - time.time()) < 60
    assert (made.size, made.output_format, made.background) == ("96x64", "png", "opaque")
    images = made.data or []
    assert [opened(image.b64_json).size for image in images] == [(96, 64)] * 2
    assert [(image.model_extra or {})["seed"] for image in images] == [7, 8]
    assert (made.model_extra or {})["version"] == "untrained"


def test_what_it_leaves_at_its_defaults_is_the_models(client: OpenAI) -> None:
    made = client.images.generate(prompt="a red circle", quality="auto", style=None, output_format="jpeg")
    assert made.data
    image = opened(made.data[0].b64_json)
    assert (image.format, image.size) == ("JPEG", (64, 64))


def test_an_answer_that_conditioned_the_image_is_its_revised_prompt(client: OpenAI) -> None:
    made = client.images.generate(prompt="a red circle", extra_body={"states": "both", "answer": {"max_tokens": 4}})
    assert made.data
    assert made.data[0].revised_prompt is not None


def test_a_stream_shows_partial_images_and_then_the_whole(client: OpenAI) -> None:
    extra = {"seed": 3, "num_inference_steps": 6}
    events = list(client.images.generate(prompt="a red circle", stream=True, partial_images=2, extra_body=extra))
    *partial, last = events
    assert [event.type for event in events] == [*["image_generation.partial_image"] * 2, "image_generation.completed"]
    assert [event.partial_image_index for event in partial if event.type == "image_generation.partial_image"] == [0, 1]
    assert last.type == "image_generation.completed"
    plain = client.images.generate(prompt="a red circle", extra_body=extra)
    assert plain.data
    assert worst_level(opened(last.b64_json), opened(plain.data[0].b64_json)) <= 1
    assert {opened(event.b64_json).size for event in partial} == {(64, 64)}


def test_who_leaves_a_stream_ends_its_work(client: OpenAI, served: Running) -> None:
    extra = {"num_inference_steps": 200}
    with client.images.generate(
        prompt="a red circle",
        stream=True,
        partial_images=3,
        size="512x512",
        extra_body=extra,
    ) as events:
        assert next(iter(events)).type == "image_generation.partial_image"
    deadline = time.monotonic() + 20
    while served.call(lambda: served.parts.service.queue.working):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("count", [1, 2])
def test_pictures_are_edited(client: OpenAI, count: int) -> None:
    pictures = [("cat.png", PICTURE, "image/png")] * count
    fields = {"prompt": "make it blue", "extra_body": {"seed": 5}}
    made = client.images.edit(image=pictures[0] if count == 1 else pictures, size="auto", **fields)  # type: ignore[call-overload]
    [image] = made.data
    assert opened(image.b64_json).size == (64, 64)
    again = client.images.edit(image=io.BytesIO(PICTURE), **fields)  # type: ignore[call-overload]
    assert (worst_level(opened(image.b64_json), opened(again.data[0].b64_json)) <= 1) == (count == 1)


def test_an_edit_is_streamed_too(client: OpenAI) -> None:
    events = client.images.edit(
        image=("cat.png", PICTURE, "image/png"),
        prompt="make it blue",
        stream=True,
        partial_images=1,
        extra_body={"num_inference_steps": 4},
    )
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_models_are_listed_and_found(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("untrained", "model", "x2i-platform")
    assert client.models.retrieve("untrained") == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dall-e-3")


def test_refusals_are_its_own_exceptions(client: OpenAI, served: Running) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.images.generate(prompt="a", model="dall-e-3")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    for fields, param in (
        ({"prompt": " "}, "prompt"),
        ({"prompt": "word " * 400}, "prompt"),
        ({"prompt": "a", "size": "17x17"}, "size"),
        ({"prompt": "a", "response_format": "url"}, "response_format"),
        ({"prompt": "a", "extra_body": {"sede": 1}}, "sede"),
    ):
        with pytest.raises(openai.BadRequestError) as bad:
            client.images.generate(**fields)
        assert (bad.value.param, bad.value.type) == (param, "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as damaged:
        client.images.edit(image=("cat.png", PICTURE[:200], "image/png"), prompt="make it blue")
    assert "truncated" in damaged.value.message

    queue = served.parts.service.queue
    bounds = {"slots": queue.slots, "limit": queue.limit}
    served.call(lambda: vars(queue).update(slots=0, limit=0))
    try:
        with pytest.raises(openai.RateLimitError) as full:
            client.images.generate(prompt="a")
    finally:
        served.call(lambda: vars(queue).update(bounds))
    assert (full.value.code, full.value.response.headers["Retry-After"]) == ("queue_full", "5")


def test_it_tries_again_by_itself_when_told_to_wait(client: OpenAI, served: Running) -> None:
    """Once the queue has room, its one retry succeeds."""
    queue = served.parts.service.queue
    bounds = {"slots": queue.slots, "limit": queue.limit}
    served.call(lambda: vars(queue).update(slots=0, limit=0))
    served.loop.call_soon_threadsafe(served.loop.call_later, 1, lambda: vars(queue).update(bounds))
    assert client.with_options(max_retries=1).images.generate(prompt="a").data
