"""The HTTP interface without a server: what a request may say, and what answers look like."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest
from pydantic import ValidationError

from x2i_platform.config import AnswerConfig, GenerateConfig
from x2i_platform.serving.api import (
    EditRequest,
    GenerationRequest,
    completed_event,
    partial_event,
    response_body,
    validation_body,
)
from x2i_platform.serving.travel import Drawn, Progress

DEFAULTS = GenerateConfig(num_inference_steps=4, guidance=3.5, width=64, height=32)
FACTS = {"model": "models:/mini@candidate", "version": "models:/mini/3", "digest": "0123456789abcdef"}


def test_null_and_what_changes_nothing_are_as_if_left_out() -> None:
    plain = GenerationRequest(prompt="a")
    nulls = dict.fromkeys(set(GenerationRequest.model_fields) - {"prompt"})
    assert GenerationRequest(prompt="a", **cast(dict[str, Any], nulls)) == plain
    harmless: dict[str, Any] = {
        "quality": "standard",
        "background": "opaque",
        "moderation": "auto",
        "stream": True,
        "partial_images": 3,
    }
    assert GenerationRequest(prompt="a", **harmless).settings(DEFAULTS) == plain.settings(DEFAULTS)
    other: dict[str, Any] = {
        "quality": "hd",
        "background": "transparent",
        "partial_images": 11,
        "output_compression": 50,
    }
    for field, value in other.items():
        with pytest.raises(ValidationError, match=field):
            GenerationRequest(prompt="a", **{field: value})
    with pytest.raises(ValidationError, match="prompt"):
        GenerationRequest.model_validate({"prompt": None})


def test_messages_are_the_prompt_and_settings_of_the_answer_go_over_the_models() -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    request = GenerationRequest.model_validate({"messages": said, "states": "both", "answer": {"top_p": 0.5}})
    assert request.words == "c"
    assert [message.role for message in request.content] == ["user", "assistant", "user"]  # type: ignore[union-attr]
    defaults = DEFAULTS.model_copy(update={"answer": AnswerConfig(temperature=0.5)})
    assert request.settings(defaults).answer == AnswerConfig(temperature=0.5, top_p=0.5)
    assert GenerationRequest(prompt="a").settings(defaults).answer == AnswerConfig(temperature=0.5)


def refused(**fields: Any) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        GenerationRequest.model_validate(fields)
    error: dict[str, Any] = validation_body(caught.value.errors()[0])["error"]
    return error


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({}, None, "the body: give either 'prompt' or 'messages'"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, None, "the body: give either 'prompt' or"),
        ({"prompt": ""}, "prompt", "prompt: must not be blank"),
        ({"prompt": 5}, "prompt", "prompt: must be text or a list of parts"),
        ({"prompt": []}, "prompt", "prompt: prompt is an empty list"),
        (
            {"prompt": [{"type": "image", "image": "/etc/hostname"}]},
            "prompt",
            "prompt: part 1: only data URLs are taken",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}
                ]
            },
            "messages",
            "messages: message 1, part 1: 'http://a/b.png' is a URL; nothing is fetched",
        ),
        (
            {"prompt": "a", "answer": {"temperature": 3}},
            "answer.temperature",
            "answer.temperature: Input should be less",
        ),
        ({"prompt": "\n "}, "prompt", "prompt: must not be blank"),
        ({"prompt": "a" * 20_001}, "prompt", "prompt: must have at most 20000 characters"),
        ({"prompt": "a", "n": 0}, "n", "n: Input should be greater than or equal to 1"),
        ({"prompt": "a", "n": 11}, "n", "n: Input should be less than or equal to 10"),
        ({"prompt": "a", "user": "\ud800"}, "user", "user: must be valid Unicode"),
        ({"prompt": "a", "model": "\ud800"}, "model", "model: must be valid Unicode"),
        ({"prompt": "a", "sede": 3}, "sede", "sede: unknown field; did you mean 'seed'?"),
        ({"prompt": "a", "quality": "hd"}, "quality", "quality: Input should be 'auto' or 'standard'"),
        ({"prompt": "a", "style": "vivid"}, "style", "style: unknown field"),
        ({"prompt": "a", "seed": 2**63}, "seed", "seed: Input should be less than or equal to 9223372036854775807"),
        ({"prompt": "a", "output_format": "gif"}, "output_format", "output_format: Input should be 'png', 'jpeg' or"),
        ({"prompt": "a", "response_format": "url"}, "response_format", "response_format: Input should be 'b64_json'"),
        ({"prompt": "a", "guidance_scale": float("nan")}, "guidance_scale", "guidance_scale: Input should be a finite"),
        ({"prompt": "a", "num_inference_steps": 201}, "num_inference_steps", "num_inference_steps: Input should be"),
    ],
)
def test_a_wrong_request_gets_an_openai_error(fields: dict[str, Any], param: str | None, message: str) -> None:
    error = refused(**fields)
    assert error["message"].startswith(message)
    assert (error["param"], error["type"], error["code"]) == (param, "invalid_request_error", None)


@pytest.mark.parametrize("size", ["17x64", "64", "64x", "0x64", "64x4096", "1e3x64", "٦٤x64", "64x64\n", "999999x16"])
def test_a_size_that_cannot_be_drawn_is_refused(size: str) -> None:
    assert refused(prompt="a", size=size)["message"].startswith(
        "size: must be WIDTHxHEIGHT in multiples of 16 from 16 to 2048, or auto, not "
    )


def test_a_request_sets_what_it_names_and_takes_the_rest_from_the_model() -> None:
    assert GenerationRequest(prompt="a").settings(DEFAULTS) == DEFAULTS
    asked = GenerationRequest(prompt="a", size="128x16", guidance_scale=0, num_inference_steps=1)
    expected = GenerateConfig(num_inference_steps=1, guidance=0, width=128, height=16)
    assert asked.settings(DEFAULTS) == expected


def test_an_edit_is_a_prompt_of_its_images_and_then_its_words() -> None:
    url = "data:image/png;base64,QUJD"
    edit = EditRequest.model_validate(
        {"prompt": "in blue", "images": [{"image_url": url}] * 2, "seed": 3, "answer": {"top_p": 0.5}, "stream": True}
    )
    request = edit.request()
    assert (request.seed, request.stream, request.words) == (3, True, "in blue")
    assert [part.kind for part in request.content[0].parts] == ["image", "image", "text"]  # type: ignore[union-attr]
    assert request.settings(DEFAULTS).answer == AnswerConfig(top_p=0.5)
    with pytest.raises(ValidationError, match="must not be blank"):
        EditRequest.model_validate({"prompt": " ", "images": [{"image_url": url}]}).request()
    with pytest.raises(ValidationError, match="only data URLs are taken"):
        EditRequest.model_validate({"prompt": "a", "images": [{"image_url": "/etc/passwd"}]}).request()


def test_the_answer_holds_images_and_the_seeds_that_make_them_again() -> None:
    drawn = [Drawn(b"image", seed, answer, 1, {}) for seed, answer in ((7, None), (8, "a ring"))]
    request = GenerationRequest(prompt="a red circle", output_format="webp")
    body = response_body(drawn, request=request, size="48x32", facts=FACTS)
    assert [base64.b64decode(entry["b64_json"]) for entry in body["data"]] == [b"image"] * 2
    assert [(entry["seed"], entry.get("revised_prompt")) for entry in body["data"]] == [(7, None), (8, "a ring")]
    assert body.items() >= {**FACTS, "size": "48x32", "output_format": "webp"}.items()


def test_events_have_the_types_of_openai() -> None:
    request = GenerationRequest(prompt="a", stream=True)
    partial = partial_event(Progress(7, 2, 8, b"half", 1), kind="image_edit", request=request, size="48x32")
    assert (partial["type"], partial["partial_image_index"]) == ("image_edit.partial_image", 1)
    assert (partial["step"], partial["steps"], base64.b64decode(partial["b64_json"])) == (2, 8, b"half")
    drawn = Drawn(b"image", 7, None, 1, {})
    completed = completed_event(drawn, kind="image_generation", request=request, size="48x32", facts=FACTS)
    assert (completed["type"], completed["seed"]) == ("image_generation.completed", 7)
    assert completed.items() >= FACTS.items()
