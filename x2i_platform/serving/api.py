"""The HTTP interface: OpenAI's images schema, validated here, free of Ray.

Unknown fields are refused as OpenAI's own server does, so that a misspelt option is not silently the default.
"""

from __future__ import annotations

import base64
import difflib
import io
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from x2i_platform.config import AnswerConfig, GenerateConfig, States
from x2i_platform.errors import InputError
from x2i_platform.generation.content import MAX_TEXT_CHARS, Message, is_unicode, parse_prompt, words_of
from x2i_platform.generation.provenance import text_chunks

MAX_SIDE = 2048
SIZE = re.compile(r"[0-9]{2,4}x[0-9]{2,4}")
MAX_SEED = 2**63 - 1


class GenerationRequest(BaseModel):
    """`POST /v1/images/generations`: OpenAI's fields, plus diffusion settings that its schema has no name for.

    A prompt of more than text is a list of parts, or a dialogue under `messages`, as in OpenAI's chats. Of fields that
    can't be honoured, values that change nothing are accepted.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str | list[Any] | None = None
    messages: list[Any] | None = None
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] = 1
    size: str = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    user: str | None = None
    quality: Literal["auto", "standard"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    moderation: Literal["auto"] = "auto"
    output_compression: Literal[100] = 100
    stream: Literal[False] = False
    partial_images: Literal[0] = 0
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    states: States | None = None
    answer: AnswerConfig | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=200)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, fields: Any) -> Any:
        """Treat null as left out, as OpenAI's schema does; its clients send every field they know."""
        return {name: value for name, value in fields.items() if value is not None} if type(fields) is dict else fields

    @field_validator("prompt", "messages", mode="before")
    @classmethod
    def _prompt_can_be_read(cls, prompt: Any) -> Any:
        if isinstance(prompt, list):
            parsed(prompt)
        elif not isinstance(prompt, str):
            raise ValueError("must be text or a list of parts")
        elif not prompt.strip():
            raise ValueError("must not be blank")
        elif not is_unicode(prompt):
            raise ValueError("must be valid Unicode")
        elif len(prompt) > MAX_TEXT_CHARS:
            raise ValueError(f"must have at most {MAX_TEXT_CHARS} characters")
        return prompt

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        return self

    @property
    def content(self) -> str | tuple[Message, ...]:
        """A caption, or the messages of a prompt that is more."""
        prompt = self.messages if self.prompt is None else self.prompt
        assert prompt is not None
        return prompt if isinstance(prompt, str) else parsed(prompt)

    @property
    def words(self) -> str:
        """What the image says that it was made from."""
        return self.content if isinstance(self.content, str) else words_of(self.content)

    @field_validator("size")
    @classmethod
    def _size_is_drawable(cls, size: str) -> str:
        sides = [int(side) for side in size.split("x")] if SIZE.fullmatch(size) else []
        if size != "auto" and (not sides or any(side % 16 or not 16 <= side <= MAX_SIDE for side in sides)):
            raise ValueError(
                f"must be WIDTHxHEIGHT in multiples of 16 from 16 to {MAX_SIDE}, or auto, not {size[:20]!r}"
            )
        return size

    def settings(self, defaults: GenerateConfig) -> GenerateConfig:
        """The request's settings over the model's defaults."""
        width, height = (defaults.width, defaults.height) if self.size == "auto" else map(int, self.size.split("x"))
        return GenerateConfig(
            states=self.states or defaults.states,
            answer=defaults.answer.model_copy(update=self.answer.model_dump(exclude_unset=True) if self.answer else {}),
            num_inference_steps=self.num_inference_steps or defaults.num_inference_steps,
            guidance=defaults.guidance if self.guidance_scale is None else self.guidance_scale,
            width=width,
            height=height,
        )


def parsed(prompt: list[Any]) -> tuple[Message, ...]:
    """The messages of a list of parts or messages. Raises ValueError, which becomes the client's mistake."""
    try:
        return parse_prompt(prompt, folder=None)
    except InputError as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True)
class Made:
    """An image and the request it was made from."""

    image: Image.Image
    prompt: str
    seed: int
    settings: GenerateConfig
    answer: str | None = None
    """What the MLLM answered, if its states conditioned the image."""


def response_body(made: list[Made], *, facts: Mapping[str, str], output_format: str) -> dict[str, Any]:
    """OpenAI's answer. `seed` beside each image and the model's `facts` say how to make it again.

    The MLLM's answer, where it conditioned the image, is `revised_prompt`.
    """
    data = [
        {"b64_json": base64.b64encode(encode_image(each, facts=facts, output_format=output_format)).decode()}
        | {"seed": each.seed, **({} if each.answer is None else {"revised_prompt": each.answer})}
        for each in made
    ]
    return {"created": int(time.time()), "data": data, "output_format": output_format, **facts}


def encode_image(made: Made, *, facts: Mapping[str, str], output_format: str) -> bytes:
    """The bytes of an image file; a PNG says in its text chunks how it was made."""
    buffer = io.BytesIO()
    how = {"seed": made.seed, **facts, **made.settings.model_dump()}
    text = {"pnginfo": text_chunks(made.prompt, how, answer=made.answer)} if output_format == "png" else {}
    made.image.save(buffer, format=output_format, **text)
    return buffer.getvalue()


def error_body(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def names_of(facts: Mapping[str, str]) -> set[str]:
    """Names that a client may use for the model: the one the service was started with, its version, or its registered
    name.
    """
    registered = re.fullmatch(r"models:/([^/@]+)[/@].+", facts["version"])
    return {facts["model"], facts["version"], *(registered.groups() if registered else ())}


def validation_body(problem: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's error object for the first of pydantic's problems with a request."""
    param = ".".join(str(part) for part in problem["loc"] if part != "body")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "json_invalid":
        return error_body(f"the body is not JSON: {problem['ctx']['error']}")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(param, GenerationRequest.model_fields, n=1)
        message = f"unknown field{f'; did you mean {near[0]!r}?' if near else ''}"
    return error_body(f"{param or 'the body'}: {message}", param=param or None)
