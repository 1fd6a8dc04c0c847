"""The Ray Serve application: an HTTP ingress in front of replicas that each hold a `Generator`.

The only module that imports ray.serve. Invariants: the queue in front of the replicas is bounded, so a burst is
answered with 503 and not with an endless wait, and so is a request when no replica is left; a replica serves the model
that was deployed, or none; no path of the server and no traceback reaches a client.

Ray Serve pickles `api` when `serve.ingress` decorates the class: routes that are added later are lost, and annotations
that are strings, as `from __future__ import annotations` makes them, can't be resolved.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError
from ray.serve.schema import ReplicaState
from starlette.exceptions import HTTPException

from x2i_platform.errors import ConfigError, InputError
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.generation.loading import load_prompt
from x2i_platform.models.devices import choose_device
from x2i_platform.models.prompts import Prompt
from x2i_platform.registry import tracking
from x2i_platform.serving.api import (
    MAX_SEED,
    GenerationRequest,
    Made,
    error_body,
    names_of,
    response_body,
    validation_body,
)
from x2i_platform.serving.pinned import Pinned, fetch, pin_model

MAX_QUEUED_REQUESTS = 64
MAX_ONGOING_REQUESTS = 2
"""A replica computes one request while the next is already decoded."""

READY_TIMEOUT_S = 2.0
LIVENESS_S = 1.0
"""Seconds between checks whether a replica is alive; Ray Serve itself checks as often."""
RETRY = {"Retry-After": "5"}
RANDOM_SEEDS = 2**32
"""Random seeds are below this: JavaScript reads whole numbers exactly up to 2**53."""

log = logging.getLogger(__name__)
api = FastAPI(title="x2i-platform", description="Images from any prompt a multimodal LLM understands.")


@api.exception_handler(RequestValidationError)
async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    return JSONResponse(validation_body(error.errors()[0]), status_code=400)


@api.exception_handler(HTTPException)
async def _no_such_route(_: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse(error_body(str(error.detail)), status_code=error.status_code, headers=error.headers)


class ImageModel:
    """One replica: the models of one registered version."""

    def __init__(self, pinned: Pinned, *, tracking_uri: str, num_gpus: float) -> None:
        self.facts = pinned.facts
        self.generator = Generator.load(fetch(pinned, tracking_uri=tracking_uri), device=choose_device(num_gpus))

    def ready(self) -> None:
        """Answers once the models are loaded."""

    async def create(self, request: GenerationRequest) -> dict[str, Any]:
        """Generate `request.n` images; a client's mistake is returned under `error`."""
        first = secrets.randbelow(RANDOM_SEEDS) if request.seed is None else request.seed
        seeds = [(first + i) % (MAX_SEED + 1) for i in range(request.n)]
        settings = request.settings(self.generator.recipe.generate)
        try:
            prompt = await run_in_threadpool(self._prompt, request)
            wanted = [ImageRequest(prompt, seed, settings) for seed in seeds]
            images = await run_in_threadpool(self.generator.generate, wanted)
        except InputError as error:
            return error_body(str(error), param="prompt")
        except ConfigError as error:
            return error_body(str(error), param="size")
        made = [
            Made(one.image, request.words, seed, settings, answer=one.answer)
            for one, seed in zip(images, seeds, strict=True)
        ]
        body: dict[str, Any] = await run_in_threadpool(
            response_body, made, facts=self.facts, output_format=request.output_format
        )
        return body

    def _prompt(self, request: GenerationRequest) -> str | Prompt:
        """The prompt with its media decoded. Raises InputError for what can't be used."""
        content = request.content
        return content if isinstance(content, str) else load_prompt(content, media=self.generator.recipe.media)


class NoReplica(Exception):  # noqa: N818
    """No replica is running."""


@serve.ingress(api)
class Ingress:
    """Validates, forwards, and turns refusals into OpenAI's error objects."""

    def __init__(self, model: Any, facts: dict[str, str]) -> None:
        self.model, self.facts = model, facts
        self.names = names_of(facts)
        self.deployment, self.application = model.deployment_name, model.app_name
        self.alive, self.looked_at = True, -LIVENESS_S

    @api.get("/health")
    async def health(self) -> dict[str, str]:
        """The HTTP process is alive."""
        return {"status": "ok"}

    @api.get("/ready")
    async def ready(self) -> JSONResponse:
        """A replica has its models loaded; it may be busy. 503 where none has."""
        status = "ready"
        if await self._some_replica():
            try:
                await asyncio.wait_for(self.model.ready.remote(), READY_TIMEOUT_S)
            except (TimeoutError, BackPressureError, RayError):
                status = "busy"
        if not await self._some_replica():
            return JSONResponse({"status": "no replica", **self.facts}, status_code=503, headers=RETRY)
        return JSONResponse({"status": status, **self.facts})

    @api.post("/v1/images/generations")
    async def generations(self, request: GenerationRequest) -> JSONResponse:
        """OpenAI's image generation."""
        if request.model is not None and request.model not in self.names:
            message = f"there is no model {request.model[:100]!r} here; this service has {self.facts['model']!r}"
            return JSONResponse(error_body(message, param="model", code="model_not_found"), status_code=404)
        try:
            body = await self._while_alive(self.model.create.remote(request))
        except BackPressureError:
            busy = error_body("the queue is full; try again later", kind="server_overloaded")
            return JSONResponse(busy, status_code=503, headers=RETRY)
        except NoReplica:
            gone = error_body("no replica of the model is running; try again later", kind="server_error")
            return JSONResponse(gone, status_code=503, headers=RETRY)
        except RayError:
            log.exception("a request failed")
            return JSONResponse(error_body("the image could not be made", kind="server_error"), status_code=500)
        return JSONResponse(body, status_code=400 if "error" in body else 200)

    async def _while_alive(self, answer: Awaitable[Any]) -> Any:
        """Wait for an answer. Raises NoReplica if no replica is left: Ray Serve would wait for ever for the next."""
        pending = asyncio.ensure_future(answer)
        try:
            while not pending.done():
                if not await self._some_replica():
                    raise NoReplica
                await asyncio.wait({pending}, timeout=LIVENESS_S)
            return pending.result()
        finally:
            pending.cancel()

    async def _some_replica(self) -> bool:
        """Whether a replica with loaded models is running, checked at most once a second."""
        if time.monotonic() - self.looked_at >= LIVENESS_S:
            self.looked_at = time.monotonic()
            application = (await run_in_threadpool(serve.status)).applications.get(self.application)
            states = application.deployments[self.deployment].replica_states if application else {}
            self.alive = states.get(ReplicaState.RUNNING, 0) > 0
        return self.alive


def build(args: dict[str, Any]) -> Application:
    """The application for `serve.run` and for KubeRay's RayService.

    Arguments: `model` (a `models:/` URI or a folder), `tracking_uri`, `replicas`, `num_gpus` (by default what the
    model's recipe generates with), `num_cpus`, `max_queued_requests`. Raises ConfigError if `model` is missing or an
    argument is unknown, RegistryError or WeightsError if there is no such model. What the name means is decided here.
    """
    known = {"model", "tracking_uri", "replicas", "num_gpus", "num_cpus", "max_queued_requests"}
    if unknown := sorted(args.keys() - known):
        raise ConfigError(f"unknown serving argument '{unknown[0]}'; known: {', '.join(sorted(known))}")
    if not args.get("model"):
        raise ConfigError("serving needs the argument 'model', such as models:/NAME@candidate")
    uri = args.get("tracking_uri") or tracking.default_tracking_uri()
    pinned, recipe = pin_model(args["model"], tracking_uri=uri)
    num_gpus = float(args.get("num_gpus", recipe.run.generate.num_gpus))
    replica = serve.deployment(
        ImageModel,
        num_replicas=int(args.get("replicas", 1)),
        ray_actor_options={"num_gpus": num_gpus, "num_cpus": float(args.get("num_cpus", 1))},
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        max_queued_requests=int(args.get("max_queued_requests", MAX_QUEUED_REQUESTS)),
        max_constructor_retry_count=1,  # what is wrong with a model is still wrong the second time
        health_check_period_s=LIVENESS_S,
    )
    bound = replica.bind(pinned, tracking_uri=uri, num_gpus=num_gpus)
    ingress = serve.deployment(Ingress, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    return ingress.bind(bound, pinned.facts)
