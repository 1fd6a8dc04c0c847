"""The HTTP interface: OpenAI's images schema, validated here, free of Ray.

Unknown fields are refused as OpenAI's own server does, so that a misspelt option is not silently the default.
"""

from __future__ import annotations

import base64
import difflib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from x2i_platform.config import AnswerConfig, GenerateConfig, States
from x2i_platform.errors import InputError
from x2i_platform.generation.content import MAX_TEXT_CHARS, Message, is_unicode, parse_prompt, words_of
from x2i_platform.serving.travel import Drawn, Progress

MAX_SIDE = 2048
SIZE = re.compile(r"[0-9]{2,4}x[0-9]{2,4}")
MAX_SEED = 2**63 - 1
MAX_PARTIAL_IMAGES = 10
MAX_EDIT_IMAGES = 16


class ImageFields(BaseModel):
    """What requests for images share: OpenAI's fields, plus diffusion settings that its schema has no name for.

    Of fields that can't be honoured, values that change nothing are accepted.
    """

    model_config = ConfigDict(extra="forbid")

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
    stream: bool = False
    partial_images: Annotated[int, Field(ge=0, le=MAX_PARTIAL_IMAGES)] = 0
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

    @field_validator("model", "user")
    @classmethod
    def _text_is_unicode(cls, text: str | None) -> str | None:
        """Python's JSON reader takes half a surrogate pair, which can't be written to a log or an answer."""
        if text is not None and not is_unicode(text):
            raise ValueError("must be valid Unicode")
        return text

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


class GenerationRequest(ImageFields):
    """`POST /v1/images/generations`. A prompt of more than text is a list of parts, or a dialogue under `messages`, as
    in OpenAI's chats.
    """

    prompt: str | list[Any] | None = None
    messages: list[Any] | None = None
    _content: str | tuple[Message, ...] = PrivateAttr("")

    @field_validator("prompt", "messages", mode="before")
    @classmethod
    def _prompt_can_be_read(cls, prompt: Any, info: ValidationInfo) -> Any:
        if isinstance(prompt, list):
            parsed(prompt, info)
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
    def _one_prompt(self, info: ValidationInfo) -> Self:
        prompt = self.messages if self.prompt is None else self.prompt
        if prompt is None or (self.prompt is not None and self.messages is not None):
            raise ValueError("give either 'prompt' or 'messages'")
        self._content = prompt if isinstance(prompt, str) else parsed(prompt, info)
        return self

    @property
    def content(self) -> str | tuple[Message, ...]:
        """A caption, or the messages of a prompt that is more."""
        return self._content

    @property
    def words(self) -> str:
        """What the image says that it was made from."""
        return self.content if isinstance(self.content, str) else words_of(self.content)


class ImageReference(BaseModel):
    """An image of an edit, as OpenAI's JSON has it."""

    model_config = ConfigDict(extra="forbid")

    image_url: str


class EditRequest(ImageFields):
    """`POST /v1/images/edits`: images and what to do with them. The MLLM sees the images before the words."""

    prompt: str
    images: Annotated[list[ImageReference], Field(min_length=1, max_length=MAX_EDIT_IMAGES)]
    input_fidelity: Literal["low"] = "low"

    def request(self, *, may_fetch: Callable[[str], bool] | None = None) -> GenerationRequest:
        """The same as a prompt of parts. Raises ValidationError for an image or words that can't be used."""
        parts = [{"type": "image_url", "image_url": {"url": image.image_url}} for image in self.images]
        fields = self.model_dump(exclude={"prompt", "images", "input_fidelity"}, exclude_unset=True)
        prompt = [*parts, {"type": "text", "text": self.prompt}] if self.prompt.strip() else self.prompt
        return GenerationRequest.model_validate({"prompt": prompt, **fields}, context={"may_fetch": may_fetch})


def parsed(prompt: list[Any], info: ValidationInfo) -> tuple[Message, ...]:
    """The messages of a list of parts or messages. Raises ValueError, which becomes the client's mistake.

    The validation's context may have `may_fetch`, which says of a URL whether it may stay, to be fetched later.
    """
    try:
        return parse_prompt(prompt, folder=None, may_fetch=(info.context or {}).get("may_fetch"))
    except InputError as error:
        raise ValueError(str(error)) from None


def response_body(
    drawn: Sequence[Drawn], *, request: ImageFields, size: str, facts: Mapping[str, str]
) -> dict[str, Any]:
    """OpenAI's answer. `seed` beside each image and the model's `facts` say how to make it again.

    The MLLM's answer, where it conditioned the image, is `revised_prompt`.
    """
    data = [{"b64_json": base64.b64encode(each.image).decode(), **_told(each)} for each in drawn]
    return {"created": int(time.time()), "data": data, **_format(request, size=size), **facts}


def partial_event(progress: Progress, *, kind: str, request: ImageFields, size: str) -> dict[str, Any]:
    """OpenAI's event of a partial image; `kind` is `image_generation` or `image_edit`."""
    assert progress.partial is not None
    return {
        "type": f"{kind}.partial_image",
        "b64_json": base64.b64encode(progress.partial).decode(),
        "partial_image_index": progress.index,
        "created_at": int(time.time()),
        **_format(request, size=size),
        "seed": progress.seed,
        "step": progress.step,
        "steps": progress.steps,
    }


def completed_event(
    drawn: Drawn, *, kind: str, request: ImageFields, size: str, facts: Mapping[str, str]
) -> dict[str, Any]:
    """OpenAI's event of a finished image."""
    return {
        "type": f"{kind}.completed",
        "b64_json": base64.b64encode(drawn.image).decode(),
        "created_at": int(time.time()),
        **_format(request, size=size),
        **_told(drawn),
        **facts,
    }


def _format(request: ImageFields, *, size: str) -> dict[str, str]:
    return {"size": size, "quality": "auto", "background": "opaque", "output_format": request.output_format}


def _told(drawn: Drawn) -> dict[str, Any]:
    return {"seed": drawn.seed, **({} if drawn.answer is None else {"revised_prompt": drawn.answer})}


def error_body(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def validation_body(problem: Mapping[str, Any], *, fields: Iterable[str] = ()) -> dict[str, Any]:
    """OpenAI's error object for the first of pydantic's problems with a request."""
    param = ".".join(str(part) for part in problem["loc"] if part != "body")
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "json_invalid":
        return error_body(f"the body is not JSON: {problem['ctx']['error']}")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(param, fields or GenerationRequest.model_fields, n=1)
        message = f"unknown field{f'; did you mean {near[0]!r}?' if near else ''}"
    return error_body(f"{param or 'the body'}: {message}", param=param or None)
