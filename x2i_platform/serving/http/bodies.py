"""Reads JSON bodies into requests, and puts them into the OpenAPI document.

Not FastAPI's own way, because a request's validation must know which hosts a service may fetch from, and because JSON
that is nested a million deep, or has a number of a million digits, must be the client's mistake.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from x2i_platform.serving.api import EditRequest, GenerationRequest
from x2i_platform.serving.http.errors import ApiError

Model = TypeVar("Model", bound=BaseModel)
REFERENCE = "#/components/schemas/{model}"
LARGE_BYTES = 256 * 1024
"""Larger bodies are parsed in a thread: 64 MiB of JSON take a third of a second."""


def json_body(model: type[BaseModel], **others: Mapping[str, Any]) -> dict[str, Any]:
    """A route's `openapi_extra`: its body is this model as JSON, or one of other media types."""
    schema = {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}
    return {"requestBody": {"required": True, "content": {"application/json": schema, **others}}}


def document(api: FastAPI) -> None:
    """Have an application's OpenAPI document hold the models that `json_body` refers to."""

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            made = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
            models = [(model, "validation") for model in (GenerationRequest, EditRequest)]
            _, schemas = models_json_schema(models, ref_template=REFERENCE)  # type: ignore[arg-type]
            made.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            api.openapi_schema = made
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]


def media_type(request: Request) -> str:
    """The body's media type, without its parameters."""
    return str(request.headers.get("content-type", "")).partition(";")[0].strip().lower()


async def read_body(request: Request, model: type[Model], *, may_fetch: Callable[[str], bool] | None) -> Model:
    """The request in a JSON body. Raises ApiError for what isn't JSON, ValidationError for what is no such request."""
    kind = media_type(request)
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(415, f"the body is {kind[:100]!r}; send JSON, with Content-Type: application/json")
    body = await request.body()
    try:
        fields = await asyncio.to_thread(json.loads, body) if len(body) > LARGE_BYTES else json.loads(body)
    except RecursionError:
        raise ApiError(400, "the body is not JSON: it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not JSON: it is not in UTF-8") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}") from None
    return model.model_validate(fields, context={"may_fetch": may_fetch})
