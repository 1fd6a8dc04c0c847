"""Lines of a request file become image requests; each bad line becomes an error of its own.

A line, or a row of Parquet, is a JSON object with `prompt` (text, or a list of parts or messages, see `content`;
messages may also be under `messages`) and, if wanted, `id`, `seed`, `states`, `answer`, `width`, `height`,
`num_inference_steps` and `guidance`. Other keys are carried along to the index, so prompt sets such as GenEval's serve
as they are; one that looks like a misspelt option, or is another tool's name of one, is refused.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from x2i_platform.config import AnswerConfig, Count, GenerateConfig, States
from x2i_platform.digests import digest
from x2i_platform.errors import InputError, raising
from x2i_platform.generation.content import Identity, Message, identity_of, parse_prompt, words_of
from x2i_platform.generation.request_tables import is_table, read_rows
from x2i_platform.streams import OUTSIDE, opened

OTHER_NAMES = {
    **dict.fromkeys(("guidance_scale", "cfg", "cfg_scale"), "guidance"),
    **dict.fromkeys(("steps", "num_steps", "inference_steps", "sampling_steps"), "num_inference_steps"),
    **dict.fromkeys(("size", "image_size", "aspect_ratio", "resolution"), "width' and 'height"),
    "w": "width",
    "h": "height",
    "caption": "prompt",
    **dict.fromkeys(("random_seed", "manual_seed"), "seed"),
}
"""Other tools' names of our options. Ignoring them would look as if they had worked."""
NOT_OFFERED = {
    **dict.fromkeys(
        ("n", "n_iter", "batch_count", "batch_size"), "a line makes one image; write a line, with a seed, for each"
    ),
    **dict.fromkeys(
        ("n_samples", "num_samples", "num_images", "num_images_per_prompt", "num_outputs"),
        "a line makes one image; write a line, with a seed, for each",
    ),
    **dict.fromkeys(
        ("negative", "negative_prompt", "negative_prompt_2", "negative_prompt_3", "true_cfg_scale"),
        "FLUX.1 is guided without one, Stable Diffusion 3.5 against the empty prompt",
    ),
    "prompt_2": "AlignNet takes the place of all text encoders",
    **dict.fromkeys(("sampler", "sampler_name", "scheduler", "sigmas", "clip_skip"), "the model's own scheduler draws"),
    **dict.fromkeys(
        ("image", "image_url", "input_image", "init_image", "init_images", "mask", "mask_image", "strength"),
        'images are parts of the prompt: [{"type": "image", "image": "cat.png"}]',
    ),
    **dict.fromkeys(("lora", "loras", "lora_scale", "controlnet"), "no LoRA and no ControlNet is loaded"),
    **dict.fromkeys(
        ("quality", "background", "output_format", "response_format"), "images are PNG files, of one quality"
    ),
    "model": "the command names the model",
}
"""Options of other tools that don't exist here, and why. An image without them would look as if it had them."""
ASKS_NOTHING: dict[str, tuple[object, ...]] = {
    **dict.fromkeys((key for key, why in NOT_OFFERED.items() if why.startswith("a line makes one image")), (1,)),
    **dict.fromkeys(("quality", "background"), ("auto",)),
    "output_format": ("png",),
}
"""Values of these options that change nothing, besides null, the empty text and the empty list."""
LONG_KEY = 8
"""Keys of at least this length are compared loosely with our options; shorter ones must have the same letters."""

Side = Annotated[int, Field(ge=16, multiple_of=16)]


class RequestLine(BaseModel):
    """One line of a request file."""

    model_config = ConfigDict(extra="allow", frozen=True)

    prompt: Annotated[str, Field(min_length=1, max_length=20_000)]
    id: str | int | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    states: States | None = None
    answer: AnswerConfig | None = None
    width: Side | None = None
    height: Side | None = None
    num_inference_steps: Count | None = None
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    def settings(self, defaults: GenerateConfig) -> GenerateConfig:
        """This line's settings over the model's defaults."""
        chosen = {name: getattr(self, name) for name in GenerateConfig.model_fields}
        if self.answer is not None:
            chosen["answer"] = defaults.answer.model_copy(update=self.answer.model_dump(exclude_unset=True))
        return defaults.model_copy(update={name: value for name, value in chosen.items() if value is not None})


@dataclass(frozen=True)
class ParsedLine:
    """A line with its number, from 1: a request, or the reason why it isn't one."""

    line: int
    request: RequestLine | None
    error: str | None = None
    messages: tuple[Message, ...] = ()
    """Of a prompt that is a list."""
    identity: Identity = ()
    """What decides the image, of a prompt that is a list."""

    @property
    def seed(self) -> int:
        """The seed asked for, or the line's number: reproducible, and different on every line."""
        return self.line if self.request is None or self.request.seed is None else self.request.seed

    def file_name(self, *, settings: GenerateConfig, model_digest: str) -> str:
        """Name of the image. It holds a hash of all that decides the image, so a file that exists is the right one."""
        assert self.request is not None
        key = digest([self.identity or self.request.prompt, self.seed, settings.identity(), model_digest])
        return f"{self.line:06d}-{key[:12]}.png"


def read_requests(path: str) -> Iterator[ParsedLine]:
    """All requests of a file: lines of JSON, gzipped or not, that are not empty, or rows of Parquet, of which there may
    be a folder.

    Raises InputError if it can't be read or holds none.
    """
    empty = True
    for line in _rows(path) if is_table(path) else _lines(path):
        empty = False
        yield line
    if empty:
        raise InputError(f"requests '{path}' hold no line")


def _rows(path: str) -> Iterator[ParsedLine]:
    folder = None if "://" in path else Path(path).absolute()
    if folder and not folder.is_dir():
        folder = folder.parent
    for number, row in read_rows(path):
        yield ParsedLine(number, None, row) if isinstance(row, str) else parse_request(number, row, folder=folder)


def _lines(path: str) -> Iterator[ParsedLine]:
    folder = None if "://" in path else Path(path).absolute().parent
    with opened(path, what="requests") as handle, raising(InputError, f"requests '{path}' can't be read", OUTSIDE):
        for number, raw in enumerate(handle, start=1):
            if raw.strip():
                yield _parsed_json(number, raw, folder=folder)


def _parsed_json(number: int, raw: bytes, *, folder: Path | None) -> ParsedLine:
    try:
        value: Any = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return ParsedLine(number, None, f"not JSON in UTF-8: {error}")
    if not isinstance(value, dict):
        return ParsedLine(number, None, f"expected a JSON object with a prompt, not {type(value).__name__}")
    return parse_request(number, value, folder=folder)


def parse_request(number: int, value: dict[str, Any], *, folder: Path | None) -> ParsedLine:
    """The request of a line's JSON object, or why it isn't one. Files it names lie in `folder`, or may not be named."""
    try:
        value, messages = _with_words(value, folder=folder)
        identity = identity_of(messages)
        request = RequestLine.model_validate(value)
    except InputError as error:
        return ParsedLine(number, None, str(error))
    except ValidationError as error:
        return ParsedLine(number, None, _first_problem(error))
    except (ValueError, RecursionError) as error:
        return ParsedLine(number, None, f"the request can't be read: {error}")
    if not request.prompt.strip():
        return ParsedLine(number, None, "prompt is blank")
    for key, extra in (request.model_extra or {}).items():
        if complaint := _complaint(key, extra):
            return ParsedLine(number, None, complaint)
    return ParsedLine(number, request, messages=messages, identity=identity)


def _with_words(value: dict[str, Any], *, folder: Path | None) -> tuple[dict[str, Any], tuple[Message, ...]]:
    """The line with the words of its prompt in place of a list, and the messages of the list."""
    if isinstance(value.get("messages"), list):
        if "prompt" in value:
            raise InputError("both 'prompt' and 'messages' are given; use one of them")
        value = {"prompt": value["messages"], **{key: one for key, one in value.items() if key != "messages"}}
    if not isinstance(value.get("prompt"), list):
        return value, ()
    messages = parse_prompt(value["prompt"], folder=folder)
    return {**value, "prompt": words_of(messages)}, messages


def _complaint(key: str, value: Any) -> str | None:
    """What is wrong with an unknown key; None if it is carried along."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower().replace("-", "_")
    if plain in NOT_OFFERED:
        harmless = (None, "", *ASKS_NOTHING.get(plain, ()))
        asks = value != [] and not any(type(value) is type(each) and value == each for each in harmless)
        return f"'{key}' is not offered: {NOT_OFFERED[plain]}" if asks else None
    meant = OTHER_NAMES.get(plain) or _near(plain)
    return f"unknown key '{key}'; did you mean '{meant}'?" if meant else None


def _near(key: str) -> str | None:
    """The option that a key misspells, if any."""
    for option in RequestLine.model_fields:
        if key == option or (len(key) == len(option) > 2 and sorted(key) == sorted(option)):
            return option
    long = [option for option in RequestLine.model_fields if len(option) >= LONG_KEY]
    return next(iter(difflib.get_close_matches(key, long, n=1, cutoff=0.85)), None)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = problem["loc"][0] if problem["loc"] else "the line"
    if problem["type"] == "missing":
        return f"{where} is missing"
    found = repr(problem["input"])
    return f"{where}: {problem['msg']}, not {found if len(found) <= 60 else f'{found[:60]}…'}"
