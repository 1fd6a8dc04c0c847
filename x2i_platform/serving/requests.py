"""Lines of a request file become image requests; each bad line becomes an error of its own.

A line is a JSON object with `prompt` and, if wanted, `id`, `seed`, `states`, `width`, `height`, `num_inference_steps`
and `guidance`. Other keys are carried along to the index, so prompt sets such as GenEval's serve as they are; one that
looks like a misspelt option, or is another tool's name of one, is refused.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from x2i_platform.config import Count, GenerateConfig, States, digest
from x2i_platform.errors import InputError
from x2i_platform.streams import opened, refusing

OTHER_NAMES = {
    "guidance_scale": "guidance",
    "cfg": "guidance",
    "cfg_scale": "guidance",
    "steps": "num_inference_steps",
    "num_steps": "num_inference_steps",
    "inference_steps": "num_inference_steps",
    "sampling_steps": "num_inference_steps",
    "size": "width' and 'height",
    "aspect_ratio": "width' and 'height",
    "resolution": "width' and 'height",
    "image_size": "width' and 'height",
    "caption": "prompt",
    "random_seed": "seed",
}
"""What other tools call our options: carried along silently they would look as if they did something."""
NOT_OFFERED = {
    **dict.fromkeys(
        ("n", "num_images", "num_images_per_prompt", "num_outputs", "batch_size"),
        "a line makes one image; write a line, with a seed, for each",
    ),
    **dict.fromkeys(("negative_prompt", "negative_prompt_2", "true_cfg_scale"), "FLUX.1 is guided without one"),
    "prompt_2": "AlignNet takes the place of both text encoders",
    **dict.fromkeys(("sampler", "sampler_name", "scheduler"), "the model's own scheduler draws"),
    **dict.fromkeys(("init_image", "mask_image", "image", "mask"), "a line's prompt is text"),
    **dict.fromkeys(("lora", "loras", "lora_scale"), "no LoRA is loaded"),
    **dict.fromkeys(("quality", "output_format", "response_format"), "images are PNG files, of one quality"),
}
"""What other tools offer and we don't, and why: an image without what was asked for would look as if it had it."""
ASKS_NOTHING: tuple[object, ...] = (None, "", 1, "auto", "png", [], False)
"""Values of those that change nothing, as clients send them that fill in every field."""

Side = Annotated[int, Field(ge=16, multiple_of=16)]


class RequestLine(BaseModel):
    """One line of a request file."""

    model_config = ConfigDict(extra="allow", frozen=True)

    prompt: Annotated[str, Field(min_length=1, max_length=20_000)]
    id: str | int | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    states: States | None = None
    width: Side | None = None
    height: Side | None = None
    num_inference_steps: Count | None = None
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    def settings(self, defaults: GenerateConfig) -> GenerateConfig:
        """This line's settings over the model's defaults."""
        chosen = {name: getattr(self, name) for name in GenerateConfig.model_fields}
        return defaults.model_copy(update={name: value for name, value in chosen.items() if value is not None})


@dataclass(frozen=True)
class Numbered:
    """A line with its number, from 1, or the reason it is none."""

    line: int
    request: RequestLine | None
    error: str | None = None

    @property
    def seed(self) -> int:
        """The seed asked for, or the line's number: reproducible, and different on every line."""
        return self.line if self.request is None or self.request.seed is None else self.request.seed

    def file_name(self, *, settings: GenerateConfig, model_digest: str) -> str:
        """Name of the image. It holds a hash of all that decides the image, so a file that exists is the right one."""
        assert self.request is not None
        key = digest([self.request.prompt, self.seed, settings.model_dump(), model_digest])
        return f"{self.line:06d}-{key[:12]}.png"


def read_requests(path: str) -> Iterator[Numbered]:
    """All non-empty lines of a JSON Lines file, gzipped or not. Raises InputError if it can't be read or holds none."""
    empty = True
    with opened(path, what="requests") as handle, refusing(f"requests '{path}' can't be read"):
        for number, raw in enumerate(handle, start=1):
            if raw.strip():
                empty = False
                yield _parsed(number, raw)
    if empty:
        raise InputError(f"requests '{path}' hold no line")


def _parsed(number: int, raw: bytes) -> Numbered:
    try:
        value: Any = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
        if not isinstance(value, dict):
            return Numbered(number, None, f"expected a JSON object with a prompt, not {type(value).__name__}")
        request = RequestLine.model_validate(value)
    except ValidationError as error:
        return Numbered(number, None, _explain(error))
    except (ValueError, RecursionError) as error:
        return Numbered(number, None, f"not JSON in UTF-8: {error}")
    if not request.prompt.strip():
        return Numbered(number, None, "prompt is blank")
    for key, value in (request.model_extra or {}).items():
        if key in NOT_OFFERED:
            if value in ASKS_NOTHING:
                continue
            return Numbered(number, None, f"'{key}' is not offered: {NOT_OFFERED[key]}")
        near = difflib.get_close_matches(key, RequestLine.model_fields, n=1, cutoff=0.75)
        if meant := OTHER_NAMES.get(key) or next(iter(near), None):
            return Numbered(number, None, f"unknown key '{key}'; did you mean '{meant}'?")
    return Numbered(number, request)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    if problem["type"] == "missing":
        return f"{problem['loc'][0]} is missing"
    found = repr(problem["input"])
    return f"{problem['loc'][0]}: {problem['msg']}, not {found if len(found) <= 60 else f'{found[:60]}…'}"
