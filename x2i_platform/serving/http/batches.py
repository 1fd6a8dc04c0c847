"""`/v1/batches`: OpenAI's batches of image requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from x2i_platform.serving.batch_records import Batch
from x2i_platform.serving.batches import Batches, BatchRefusedError
from x2i_platform.serving.http.errors import ApiError
from x2i_platform.serving.http.pages import Order, page_of


class BatchRequest(BaseModel):
    """`POST /v1/batches`."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: Annotated[str, Field(max_length=100)]
    endpoint: str
    completion_window: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}h$")] = "24h"
    """Hours until what is not made is given up."""
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None


def make_router(batches: Batches, *, owner_of: Callable[[Request], str]) -> APIRouter:
    """The routes of batches. `owner_of` names who asks."""
    router = APIRouter(prefix="/v1/batches", tags=["batches"])

    def find(batch_id: str, request: Request) -> Batch:
        found = batches.get(batch_id, owner=owner_of(request))
        if found is None:
            raise ApiError(404, f"there is no batch {batch_id[:100]!r}", param="id", code="not_found")
        return found

    @router.post("")
    async def create(body: BatchRequest, request: Request) -> dict[str, Any]:
        """Have the requests of an uploaded file made when there is time."""
        owner = owner_of(request)
        file = batches.files.get(body.input_file_id, owner=owner)
        if file is None:
            message = f"input_file_id: there is no file {body.input_file_id!r}"
            raise ApiError(400, message, param="input_file_id", code="not_found")
        hours = int(body.completion_window.removesuffix("h"))
        try:
            made = batches.create(file, endpoint=body.endpoint, hours=hours, metadata=body.metadata, owner=owner)
        except BatchRefusedError as error:
            raise ApiError(400, f"{error.param}: {error}", param=error.param) from None
        return made.body()

    @router.get("")
    async def all_batches(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: str | None = None,
        order: Order = "desc",
    ) -> dict[str, Any]:
        """This key's batches, in pages, the newest first."""
        return page_of(batches.list(owner=owner_of(request)), limit=limit, after=after, order=order)

    @router.get("/{batch_id}")
    async def batch(batch_id: str, request: Request) -> dict[str, Any]:
        """How far a batch is."""
        return find(batch_id, request).body()

    @router.post("/{batch_id}/cancel")
    async def cancel(batch_id: str, request: Request) -> dict[str, Any]:
        """End a batch soon; what is made is in its output file."""
        found = find(batch_id, request)
        batches.cancel(found)
        return found.body()

    return router
