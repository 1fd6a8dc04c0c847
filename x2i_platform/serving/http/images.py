"""`/v1/images/generations` and `/v1/images/edits`: answered when all is done, or as server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from x2i_platform.generation.content import MAX_BYTES
from x2i_platform.serving.api import (
    MAX_EDIT_IMAGES,
    EditRequest,
    GenerationRequest,
    completed_event,
    partial_event,
    response_body,
)
from x2i_platform.serving.http.bodies import json_body, media_type, read_body
from x2i_platform.serving.http.errors import ApiError, as_answer
from x2i_platform.serving.http.told import tell
from x2i_platform.serving.service import Order, Service, ShuttingDownError
from x2i_platform.serving.travel import Progress

Result = TypeVar("Result")
IMAGE_FIELDS = ("image", "image[]")
EDIT_FORM = {
    "schema": {
        "type": "object",
        "required": ["image", "prompt"],
        "properties": {
            "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "prompt": {"type": "string"},
        },
        "additionalProperties": {"type": "string"},
    }
}
"""An edit as a form, for the OpenAPI document."""


def make_router(service: Service) -> APIRouter:
    """The routes that make images."""
    router = APIRouter(prefix="/v1/images", tags=["images"])

    @router.post("/generations", openapi_extra=json_body(GenerationRequest))
    async def generations(request: Request) -> Response:
        """OpenAI's image generation; `messages` in place of `prompt` for pictures, videos and sound."""
        body = await read_body(request, GenerationRequest, may_fetch=service.may_fetch)
        return await _answer(service, body, request=request, kind="image_generation")

    @router.post("/edits", openapi_extra=json_body(EditRequest, **{"multipart/form-data": EDIT_FORM}))
    async def edits(request: Request) -> Response:
        """OpenAI's image edit: images and what to do with them, as JSON or as a form."""
        if media_type(request) == "multipart/form-data":
            edit = EditRequest.model_validate(await _form(request))
        else:
            edit = await read_body(request, EditRequest, may_fetch=service.may_fetch)
        body = edit.request(may_fetch=service.may_fetch)
        return await _answer(service, body, request=request, kind="image_edit")

    return router


class EventStream(StreamingResponse):  # type: ignore[misc]  # mypy doesn't read starlette's types
    """Server-sent events of an order. However they end, also before the first, its work ends with them."""

    def __init__(self, events: AsyncIterator[bytes], order: Order) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._order = order

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._order.work.cancel()


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of some work, which is cancelled if the client goes away. Raises ClientDisconnect then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        if task.cancelled():  # by the service, as nobody else has it
            raise ShuttingDownError
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answer(service: Service, body: GenerationRequest, *, request: Request, kind: str) -> Response:
    if body.stream:
        events: asyncio.Queue[Progress | None] = asyncio.Queue()
        order = service.submit(body, watcher=events.put_nowait)
        _note(request, order)
        order.work.add_done_callback(lambda _: events.put_nowait(None))
        # What goes wrong before the first step has a status of its own; after it, an answer has begun.
        first = await while_connected(request, _first(order, events))
        return EventStream(_events(order, first, events, kind=kind), order)
    order = service.submit(body)
    _note(request, order)
    drawn = await while_connected(request, order.work)
    facts = order.offer.pinned.facts
    # In a thread: base64 and JSON of ten large images would hold up everybody else.
    answer = await asyncio.to_thread(response_body, drawn, request=body, size=order.size, facts=facts)
    return await asyncio.to_thread(JSONResponse, answer)


async def _first(order: Order, events: asyncio.Queue[Progress | None]) -> Progress | None:
    """The first step; None for an image of one step. Raises what the order raises; cancels it if cancelled."""
    try:
        first = await events.get()
    except asyncio.CancelledError:
        order.work.cancel()
        raise
    if first is None:
        await order.work
    return first


async def _events(
    order: Order, first: Progress | None, events: asyncio.Queue[Progress | None], *, kind: str
) -> AsyncIterator[bytes]:
    """Partial images as they come, then the images, or an error."""
    shared: dict[str, Any] = {"kind": kind, "request": order.request, "size": order.size}
    progress = first
    try:
        while progress is not None:
            if progress.partial is not None:
                yield _event(partial_event(progress, **shared))
            progress = await events.get()
        if order.work.cancelled():
            raise ShuttingDownError
        for drawn in order.work.result():
            yield _event(completed_event(drawn, **shared, facts=order.offer.pinned.facts))
    except Exception as error:  # noqa: BLE001 - the answer has begun, so whatever it is can only be an event
        yield _event({"type": "error", **as_answer(error).body})


def _event(data: Mapping[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def _note(request: Request, order: Order) -> None:
    facts = order.offer.pinned.facts
    tell(request, model=facts["model"], version=facts["version"], images=order.request.n, prompt=order.request.words)


async def _form(request: Request) -> dict[str, Any]:
    """The fields of a form, its images as data URLs. Raises ApiError for one that can't be read."""
    try:
        form = await request.form(max_files=MAX_EDIT_IMAGES + 1, max_fields=64, max_part_size=MAX_BYTES["image"])
    except MultiPartException as error:
        raise ApiError(400, f"the form can't be read: {error.message}") from None
    try:
        return await _fields(form.multi_items())
    finally:
        await form.close()


async def _fields(items: Sequence[tuple[str, UploadFile | str]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    images: list[dict[str, str]] = []
    for name, value in items:
        if name in IMAGE_FIELDS:
            images.append({"image_url": await _data_url(value)})
        elif isinstance(value, UploadFile):
            raise ApiError(400, f"{name}: no file is taken here; images are under 'image'", param=name)
        elif name in fields:
            raise ApiError(400, f"{name}: is given twice", param=name)
        else:
            fields[name] = _json(value) if name == "answer" else value
    return {**fields, "images": images}


async def _data_url(image: UploadFile | str) -> str:
    """A form's file as a data URL. A text is one already, or is refused with the others."""
    if isinstance(image, str):
        return image
    content = await image.read()
    return f"data:image/{_subtype(image)};base64,{base64.b64encode(content).decode()}"


def _subtype(image: UploadFile) -> str:
    """Only the kind of medium matters: what an image is, its own bytes say."""
    medium, _, subtype = (image.content_type or "").partition("/")
    return subtype if medium == "image" and subtype.isalnum() else "png"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
