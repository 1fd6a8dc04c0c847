"""What a service is told when it is deployed, as values that `serve deploy` and KubeRay can write in YAML."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from x2i_platform.cache import cache_folder
from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError, InputError
from x2i_platform.media.fetching import Fetcher
from x2i_platform.serving.denoiser import Finish
from x2i_platform.serving.http.guards import GuardConfig
from x2i_platform.serving.keys import VARIABLE, read_keys

RANGE = re.compile(r"([1-9][0-9]*)(?:-([1-9][0-9]*))?")


def _listed(names: Any) -> Any:
    return [names] if isinstance(names, str) else names


@dataclass(frozen=True)
class Gpus:
    """GPUs of one replica."""

    encoder: float
    denoiser: float


class Deployment(BaseModel):
    """Arguments of a service."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    """The models: `models:/` URIs or folders, the first is the default. They share one MLLM and one DiT."""
    tracking_uri: str | None = None
    replicas: str | int = 1
    """Denoisers: a number, or `1-4` to scale with the load."""
    encoder_replicas: str | int = 1
    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPUs of a replica of either kind; as many threads compute on it where there is no GPU."""
    num_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of a denoiser; by default what the recipe generates with."""
    encoder_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of an encoder; by default what the recipe's MLLM has in precompute."""
    batch_gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of each worker of a batch, beside those above; by default what the recipe generates with."""
    max_batch: Annotated[int, Field(ge=1)] | None = None
    """Images that are drawn together; by default the recipe's."""
    max_queued_requests: Annotated[int, Field(ge=0)] = 64
    """Requests that may wait; one more is answered 429."""
    follow_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds between looks at where an alias points."""
    recovery_s: Annotated[float, Field(ge=0)] = 30.0
    """Seconds that requests wait for a replica while none runs."""
    state: str | None = None
    """Folder of jobs, files, batches and the audit log, of one service alone."""
    api_keys: str | None = None
    """File of API keys, of lines `NAME KEY`; more are read from the environment variable X2I_API_KEYS."""
    anonymous: bool = False
    """Serve without keys, where nobody has any. Only for a service that no other machine reaches."""
    guards: dict[str, Any] = {}
    """Limits and permissions other than the defaults of `http.guards.GuardConfig`, without its keys."""
    finish: str | None = None
    """`package.module:function` that every image goes through: a safety checker or a watermark (docs/serving.md)."""

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Check arguments. Raises ConfigError that names the one at fault."""
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            # An unknown name first: it may be the missing one, misspelt.
            problem = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
            name = str(problem["loc"][0]) if problem["loc"] else "arguments"
            if problem["type"] == "extra_forbidden":
                raise ConfigError(f"unknown serving argument '{name}'; known: {', '.join(cls.model_fields)}") from None
            if problem["type"] == "missing":
                raise ConfigError(f"serving needs the argument '{name}', such as models:/NAME@champion") from None
            raise ConfigError(f"serving argument '{name}': {problem['msg'].removeprefix('Value error, ')}") from None

    @field_validator("replicas", "encoder_replicas")
    @classmethod
    def _is_a_number_or_a_range(cls, replicas: str | int) -> str | int:
        _range(replicas)
        return replicas

    def guard(self, environment: Mapping[str, str]) -> GuardConfig:
        """What the service takes from whom. Raises ConfigError for a bad key, or without any."""
        keys = read_keys(None if self.api_keys is None else Path(self.api_keys), environment)
        if not keys and not self.anonymous:
            raise ConfigError(
                f"serving needs API keys: set {VARIABLE} to lines 'NAME KEY', or the argument 'api_keys' to a file of "
                "them; 'anonymous: true' serves without"
            )
        try:
            config = GuardConfig.model_validate({**self.guards, "keys": keys})
            Fetcher(config.allowed_hosts)
            return config
        except InputError as error:
            raise ConfigError(f"guard 'allowed_hosts': {error}") from None
        except ValidationError as error:
            problem = error.errors()[0]
            name = ".".join(map(str, problem["loc"])) or "guards"
            known = ", ".join(field for field in GuardConfig.model_fields if field != "keys")
            reason = f"is unknown; there are {known}" if problem["type"] == "extra_forbidden" else problem["msg"]
            raise ConfigError(f"guard '{name}': {reason.removeprefix('Value error, ')}") from None

    @property
    def denoisers(self) -> tuple[int, int]:
        """The least and the largest number of denoisers."""
        return _range(self.replicas)

    @property
    def encoders(self) -> tuple[int, int]:
        """The least and the largest number of encoders."""
        return _range(self.encoder_replicas)

    def gpus(self, recipe: Recipe) -> Gpus:
        """GPUs of a replica of either kind."""
        return Gpus(
            encoder=recipe.run.mllm.num_gpus if self.encoder_gpus is None else self.encoder_gpus,
            denoiser=recipe.run.generate.num_gpus if self.num_gpus is None else self.num_gpus,
        )

    @property
    def state_folder(self) -> Path:
        """Where jobs, files, batches and the audit log are kept; by default `serve` in the cache folder."""
        return cache_folder() / "serve" if self.state is None else Path(self.state)


def load_finish(name: str | None) -> Finish | None:
    """The function that a deployment names. Raises ConfigError if there is none."""
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(f"finish '{name}' can't be imported ({error}); give package.module:function") from None
    if not callable(found):
        raise ConfigError(f"finish '{name}' is no function but of type {type(found).__name__}")
    return cast(Finish, found)


def _range(text: str | int) -> tuple[int, int]:
    found = RANGE.fullmatch(str(text))
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < least <= most:
        raise ValueError(f"{str(text)[:20]!r} is neither a number nor a range such as 1-4")
    return least, most
