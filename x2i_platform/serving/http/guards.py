"""The guard rails around the HTTP application, as layers of plain ASGI: streams pass unbuffered, disconnects reach it.

From the outside in: audit, page and host (without keys), CORS, keys, rates, bounds. A refusal of one is seen by those
before it alone; all are in OpenAI's form.
"""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from x2i_platform.media.limits import MB
from x2i_platform.serving.http.audit import with_audit
from x2i_platform.serving.http.authorization import with_keys
from x2i_platform.serving.http.bounds import BodyRule, with_bounds
from x2i_platform.serving.http.origins import with_origins
from x2i_platform.serving.http.rates import with_rates
from x2i_platform.serving.keys import ApiKey

POLICY_VIOLATION = 1008
"""Code with which a websocket is closed, by RFC 6455."""
ANY_ORIGIN = "*"
FILES, EVERYTHING = re.compile(r"/v1/files/?"), re.compile(r".*", re.DOTALL)
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GuardConfig(BaseModel):
    """What a service takes from whom. The defaults fit one that a few people share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[ApiKey, ...] = ()
    requests_per_minute: Count = 120
    """Of each key; see `rates` for what counts. Without keys both limits are of each address, and only where given."""
    concurrent: Count = 16
    """Requests of each key that may run or wait at once."""
    max_body_bytes: Count = 64 * MB
    """A picture at its limit has 30 MiB, 40 as base64; beside it fits a minute of video or sound."""
    max_file_bytes: Count = 512 * MB
    """Of `/v1/files`. A file of requests has many bodies."""
    max_uploads: Count = 4
    """Uploads of files at once, of all clients: Ray Serve's proxy reads as fast as they send, and keeps in memory what
    the service has not taken yet."""
    body_timeout_s: Seconds = 60.0
    """64 MiB in a minute are 9 Mbit/s."""
    file_timeout_s: Seconds = 600.0
    needs_length: bool = False
    """Refuse bodies in chunks. True behind Ray Serve's proxy, which reads ahead without a bound."""
    request_timeout_s: Seconds = 600.0
    """OpenAI's clients wait as long."""
    cors_origins: tuple[str, ...] = ()
    """Sites whose pages may use the service, such as https://app.example.com."""
    trusted_hosts: tuple[str, ...] = ()
    """Names beside loopback's own by which a service without keys may be asked for."""
    log_prompts: bool = False
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that media may be fetched from; see `media.fetching`."""

    @model_validator(mode="after")
    def _some_page_at_most(self) -> Self:
        if ANY_ORIGIN in self.cors_origins and not self.keys:
            raise ValueError("cors_origins: '*' lets any web page use a service without keys; name the sites")
        return self

    @property
    def rules(self) -> tuple[BodyRule, ...]:
        """What bodies of each route may be."""
        return (
            BodyRule(FILES, self.max_file_bytes, self.file_timeout_s, self.needs_length, at_once=self.max_uploads),
            BodyRule(EVERYTHING, self.max_body_bytes, self.body_timeout_s, self.needs_length),
        )


def guarded(app: ASGIApp, config: GuardConfig) -> ASGIApp:
    """The application behind its guard rails."""
    http = with_bounds(app, rules=config.rules, request_timeout_s=config.request_timeout_s)
    if config.keys or config.model_fields_set & {"requests_per_minute", "concurrent"}:
        http = with_rates(http, requests_per_minute=config.requests_per_minute, concurrent=config.concurrent)
    if config.keys:
        http = with_keys(http, keys=config.keys)
    if config.cors_origins:
        http = _with_cors(http, origins=config.cors_origins)
    if not config.keys:
        http = with_origins(http, trusted_hosts=config.trusted_hosts, cors_origins=config.cors_origins)
    http = with_audit(http, log_prompts=config.log_prompts)

    async def entry(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await app(scope, receive, send)
        else:  # nothing here speaks it
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    return entry


def _with_cors(app: ASGIApp, *, origins: tuple[str, ...]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("Authorization", "Content-Type", "X-Request-Id"),
        expose_headers=(
            *("X-Request-Id", "Retry-After", "x-ratelimit-limit-requests"),
            *("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        ),
    )
