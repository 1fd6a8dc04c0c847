"""`/v1/files`: OpenAI's files, for batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from x2i_platform.serving.files import FileStore, StoredFile, TooLargeError
from x2i_platform.serving.http.errors import ApiError
from x2i_platform.serving.http.pages import Order, page_of
from x2i_platform.serving.http.uploads import EXPECTED, Form, receive

MAX_LIMIT = 10_000


def make_router(
    store: FileStore,
    *,
    owner_of: Callable[[Request], str],
    in_use: Callable[[StoredFile], bool] = lambda _: False,
) -> APIRouter:
    """The routes of files. `owner_of` names who asks; a file that is `in_use` can't be deleted."""
    router = APIRouter(prefix="/v1/files", tags=["files"])
    _add_upload(router, store, owner_of=owner_of)

    def find(file_id: str, request: Request) -> StoredFile:
        found = store.get(file_id, owner=owner_of(request))
        if found is None:
            raise ApiError(404, f"there is no file {file_id[:100]!r}", param="id", code="not_found")
        return found

    @router.get("")
    async def all_files(
        request: Request,
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = MAX_LIMIT,
        after: str | None = None,
        order: Order = "desc",
    ) -> dict[str, Any]:
        """This key's files, in pages."""
        found = store.list(owner=owner_of(request), purpose=purpose)
        return page_of(found, limit=limit, after=after, order=order)

    @router.get("/{file_id}")
    async def file(file_id: str, request: Request) -> dict[str, Any]:
        """A file's record."""
        return find(file_id, request).body()

    @router.get("/{file_id}/content", response_class=FileResponse)
    async def content(file_id: str, request: Request) -> FileResponse:
        """A file's content."""
        found = find(file_id, request)
        return FileResponse(store.path(found), media_type="application/octet-stream", filename=found.filename)

    @router.delete("/{file_id}")
    async def delete(file_id: str, request: Request) -> dict[str, Any]:
        """Delete a file."""
        found = find(file_id, request)
        if in_use(found):
            raise ApiError(409, f"file {found.id} is read by a batch that has not ended", code="file_in_use")
        await asyncio.to_thread(store.delete, found)
        return {"id": found.id, "object": "file", "deleted": True}

    return router


def _add_upload(router: APIRouter, store: FileStore, *, owner_of: Callable[[Request], str]) -> None:
    @router.post("", openapi_extra={"requestBody": FORM})
    async def create(request: Request) -> dict[str, Any]:
        """Upload a file of batch requests: `purpose` is `batch`, `file` its content."""
        try:
            with store.incoming() as upload:
                form = await receive(request, upload.write)
                _require_complete(form)
                kept = await asyncio.to_thread(
                    store.keep, upload, filename=form.filename or "", purpose="batch", owner=owner_of(request)
                )
        except TooLargeError as error:
            raise ApiError(413, str(error), param="file", code="file_too_large") from None
        return kept.body()


def _require_complete(form: Form) -> None:
    """Raise ApiError for a form that lacks something or asks for what isn't done here."""
    if form.filename is None:
        raise ApiError(400, EXPECTED, param="file")
    purpose = form.fields.pop("purpose", None)
    if purpose != "batch":
        raise ApiError(400, f"purpose: must be 'batch', not {str(purpose)[:40]!r}", param="purpose")
    if form.fields:
        name = min(form.fields)[:100]
        raise ApiError(400, f"{name}: unknown field; files are kept until they are deleted", param=name)


FORM: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["purpose", "file"],
                "properties": {
                    "purpose": {"type": "string", "enum": ["batch"]},
                    "file": {"type": "string", "format": "binary"},
                },
            }
        }
    },
}
"""The form of an upload, for the OpenAPI document."""
