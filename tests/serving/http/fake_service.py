"""A service that speaks the whole contract of the page and draws in a moment: what the page is tested against.

It is a real server on loopback. What a test wants of it is set on `FakeService`, which also keeps what reached it.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image, ImageDraw, ImageFilter

from x2i_platform.serving.http.playground import make_router

ANSWER = "a quiet harbour at dawn"
STEP_S = 0.01


@dataclass(frozen=True)
class Refusal:
    """An error of the service. `late` ones come in the stream, after the first image."""

    status: int
    message: str
    code: str | None = None
    retry_after: int | None = None
    late: bool = False

    def body(self) -> dict[str, Any]:
        return {
            "error": {"message": self.message, "type": "invalid_request_error", "param": None, "code": self.code},
        }

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def model(
    name: str, *, side: int = 512, inputs: tuple[str, ...] = ("text", "image", "video", "audio")
) -> dict[str, Any]:
    """An entry of `GET /v1/models`."""
    defaults = {
        **{"width": side, "height": side, "num_inference_steps": 8, "guidance": 3.5},
        **{"states": "prompt", "answer": {"temperature": 0.0, "top_p": 1.0, "max_tokens": None}},
    }
    facts = {"version": f"models:/{name}/3", "digest": "sha256:4be1a0c79d"}
    kind = {"id": name, "object": "model", "created": 1, "owned_by": "x2i-platform"}
    return {**kind, **facts, "defaults": defaults, "inputs": list(inputs)}


@dataclass
class FakeService:
    """What the service does, which a test may change, and what has reached it."""

    models: list[dict[str, Any]] = field(default_factory=lambda: [model("harbour"), model("sketch", side=256)])
    key: str | None = None
    refusal: Refusal | None = None
    hold_at: int | None = None
    """The step after which images wait until this is changed."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    disconnects: int = 0

    def refuses(self, request: Request) -> JSONResponse | None:
        """The answer to a request without the key."""
        if self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}":
            return None
        return Refusal(401, "give an API key as 'Authorization: Bearer KEY'", code="invalid_api_key").response()


def make_app(service: FakeService) -> FastAPI:
    """The page, `GET /v1/models` and `POST /v1/images/generations`."""
    app = FastAPI()
    app.include_router(make_router())

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return service.refuses(request) or JSONResponse({"object": "list", "data": service.models})

    @app.post("/v1/images/generations")
    async def generations(request: Request) -> Response:
        if refused := service.refuses(request):
            return refused
        body = await request.json()
        service.requests.append(body)
        if service.refusal and not service.refusal.late:
            return service.refusal.response()
        if not body.get("stream"):
            return JSONResponse({"created": int(time.time()), "data": [completed(service, body)]})
        return StreamingResponse(stream(service, body), media_type="text/event-stream")

    return app


async def stream(service: FakeService, body: dict[str, Any]) -> AsyncIterator[str]:
    """The events of one image. When the client goes away, Starlette cancels what waits here."""
    steps = int(body.get("num_inference_steps") or 8)
    partials = int(body.get("partial_images") or 0)
    shown = {round((i + 1) * steps / (partials + 1)): i for i in range(partials)}
    yield ": working\n\n"
    try:
        for step in range(1, steps + 1):
            await asyncio.sleep(STEP_S)
            if step in shown and step < steps:
                facts = {"partial_image_index": shown[step], "step": step, "steps": steps}
                yield event("image_generation.partial_image", {**drawn(body, blur=12 * (1 - step / steps)), **facts})
                if service.refusal:
                    yield event("error", service.refusal.body())
                    return
            while service.hold_at == step:
                await asyncio.sleep(STEP_S)
    except asyncio.CancelledError:
        service.disconnects += 1
        raise
    yield event("image_generation.completed", completed(service, body))


def completed(service: FakeService, body: dict[str, Any]) -> dict[str, Any]:
    entry = next((each for each in service.models if each["id"] == body.get("model")), service.models[0])
    facts = {"model": entry["id"], "version": entry["version"], "digest": entry["digest"]}
    answer = {"revised_prompt": ANSWER} if body.get("states") in ("answer", "both") else {}
    return {**drawn(body, blur=0), **facts, **answer}


def event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n"


def drawn(body: dict[str, Any], *, blur: float) -> dict[str, Any]:
    """The fields of an image that every event has."""
    seed = 4221 if body.get("seed") is None else int(body["seed"])
    size = body.get("size") or "512x512"
    width, height = map(int, size.split("x"))
    buffer = io.BytesIO()
    landscape(width, height, seed=seed).filter(ImageFilter.GaussianBlur(blur)).save(buffer, format="png")
    settings = {"size": size, "quality": "auto", "background": "auto", "output_format": "png", "seed": seed}
    return {"b64_json": base64.b64encode(buffer.getvalue()).decode(), "created_at": int(time.time()), **settings}


def landscape(width: int, height: int, *, seed: int) -> Image.Image:
    """A sky, a sun and hills, in colours of the seed; drawn at twice the size, so that edges are smooth."""
    wide, high = 2 * width, 2 * height
    shade = Image.linear_gradient("L").resize((wide, high))
    hue = shade.point(lambda v: (seed * 37 + v // 5) % 256)
    sky = Image.merge("HSV", (hue, shade.point(lambda v: 150 - v // 3), shade.point(lambda v: 150 + v // 3)))
    image = sky.convert("RGB")
    draw = ImageDraw.Draw(image)
    x, y, r = wide * (0.25 + seed % 7 / 14), high * 0.4, high * 0.1
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(255, 236, 190))
    for i, dark in enumerate((0.55, 0.4, 0.25)):
        draw.polygon(hills(wide, high, seed=seed + i, base=0.64 + 0.12 * i), fill=shaded(dark))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def hills(width: int, height: int, *, seed: int, base: float) -> list[tuple[float, float]]:
    """The outline of a range of hills; `base` is how far down it stands."""
    ridge = [
        (width * i / 60, height * (base + 0.05 * math.sin(i / 7 + 2.1 * seed) + 0.02 * math.sin(i / 2.3 + seed)))
        for i in range(61)
    ]
    return [(0, height), *ridge, (width, height)]


def shaded(dark: float) -> tuple[int, int, int]:
    return int(190 * dark), int(200 * dark), int(230 * dark)


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an application on loopback; the value is its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline, "the server doesn't start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(timeout=10)
