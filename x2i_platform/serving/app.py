"""The Ray Serve application: an HTTP ingress in front of replicas that each hold a `Generator`.

The only module that imports ray.serve. Invariants: the queue in front of the replicas is bounded, so a burst is
answered with 503 and not with an endless wait; no path of the server and no traceback reaches a client.
"""

from __future__ import annotations

import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.serve import Application
from ray.serve.exceptions import BackPressureError

from x2i_platform.errors import InputError, X2IError
from x2i_platform.models.devices import choose_device
from x2i_platform.registry import models, tracking
from x2i_platform.serving.api import MAX_SEED, GenerationRequest, error_body, response_body
from x2i_platform.serving.generator import Generator, ImageRequest

MAX_QUEUED_REQUESTS = 64
MAX_ONGOING_REQUESTS = 2
"""A replica computes one request while the next is already decoded."""

api = FastAPI(title="x2i-platform", description="Images from any prompt a multimodal LLM understands.")


@serve.deployment(max_ongoing_requests=MAX_ONGOING_REQUESTS, max_queued_requests=MAX_QUEUED_REQUESTS)
class ImageModel:
    """One replica: the models of one registered version."""

    def __init__(self, model: str, *, tracking_uri: str, num_gpus: float) -> None:
        self.name = model
        self.generator = Generator.load(
            models.resolve(model, tracking_uri=tracking_uri), device=choose_device(num_gpus)
        )

    def ready(self) -> str:
        """Answers once the models are loaded, with the name they were asked for by."""
        return self.name

    async def create(self, request: GenerationRequest) -> dict[str, Any]:
        """Generate `request.n` images; an InputError's text comes back under `error`."""
        first = secrets.randbelow(MAX_SEED) if request.seed is None else request.seed
        seeds = [(first + i) % MAX_SEED for i in range(request.n)]
        settings = request.settings(self.generator.recipe.generate)
        wanted = [ImageRequest(request.prompt, seed, settings) for seed in seeds]
        try:
            images = await run_in_threadpool(self.generator.generate, wanted)
        except (InputError, ValueError) as error:
            return error_body(str(error), param="prompt")
        return response_body(images, seeds=seeds, output_format=request.output_format)


@serve.deployment(max_ongoing_requests=1000)
@serve.ingress(api)
class Ingress:
    """Validates, forwards, and turns refusals into OpenAI's error objects."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @api.get("/health")
    async def health(self) -> dict[str, str]:
        """The HTTP process is alive."""
        return {"status": "ok"}

    @api.get("/ready")
    async def ready(self) -> JSONResponse:
        """A replica has its models loaded."""
        name = await self.model.ready.remote()
        return JSONResponse({"status": "ready", "model": name})

    @api.post("/v1/images/generations")
    async def generations(self, request: GenerationRequest) -> JSONResponse:
        """OpenAI's image generation."""
        try:
            body = await self.model.create.remote(request)
        except BackPressureError:
            busy = error_body("the queue is full; try again later", kind="server_overloaded")
            return JSONResponse(busy, status_code=503, headers={"Retry-After": "5"})
        return JSONResponse(body, status_code=400 if "error" in body else 200)


@api.exception_handler(RequestValidationError)
async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    problem = error.errors()[0]
    param = ".".join(str(part) for part in problem["loc"] if part != "body")
    return JSONResponse(error_body(f"{param or 'body'}: {problem['msg']}", param=param or None), status_code=400)


def build(args: dict[str, Any]) -> Application:
    """The application for `serve.run` and for KubeRay's RayService.

    Arguments: `model` (a `models:/` URI or a folder), `tracking_uri`, `replicas`, `num_gpus`, `num_cpus`. Raises
    X2IError if `model` is missing or an argument is unknown.
    """
    known = {"model", "tracking_uri", "replicas", "num_gpus", "num_cpus"}
    if unknown := sorted(args.keys() - known):
        raise X2IError(f"unknown serving argument '{unknown[0]}'; known: {', '.join(sorted(known))}")
    if not args.get("model"):
        raise X2IError("serving needs the argument 'model', such as models:/NAME@candidate")
    num_gpus, num_cpus = float(args.get("num_gpus", 0)), float(args.get("num_cpus", 1))
    replica = ImageModel.options(
        num_replicas=int(args.get("replicas", 1)),
        ray_actor_options={"num_gpus": num_gpus, "num_cpus": num_cpus},
    )
    uri = args.get("tracking_uri") or tracking.default_tracking_uri()
    bound = replica.bind(args["model"], tracking_uri=uri, num_gpus=num_gpus)
    return Ingress.options(ray_actor_options={"num_cpus": 0}).bind(bound)
