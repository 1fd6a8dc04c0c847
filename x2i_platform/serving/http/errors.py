"""Refusals in the form of OpenAI's error object."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from x2i_platform.errors import ConfigError, InputError
from x2i_platform.serving.api import error_body, validation_body
from x2i_platform.serving.queue import QueueFullError
from x2i_platform.serving.service import NoModelError, NoReplicaError, ShuttingDownError

RETRY_AFTER_S = 5
CLIENT_GONE = 499
"""What logs and figures call an answer that nobody waited for; the number is nginx'."""
log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is no success. Handlers raise it; `install` makes the answer of it.

    `retry_after_s` becomes the header Retry-After, of answers 429 and 503.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = error_body(message, kind=kind, param=param, code=code)
        self.headers: Mapping[str, str] = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body, status_code=self.status, headers=dict(self.headers))


def as_answer(error: Exception) -> ApiError:
    """The answer to an error of the service. One that is nobody's mistake is logged, and says nothing of itself."""
    match error:
        case ApiError():
            return error
        case NoModelError():
            return ApiError(404, str(error), param="model", code="model_not_found")
        case InputError():
            return ApiError(400, str(error), param="prompt")
        case ConfigError():
            return ApiError(400, str(error), param="size")
        case QueueFullError():
            message = "the queue is full; try again later"
            return ApiError(429, message, kind="server_overloaded", code="queue_full", retry_after_s=RETRY_AFTER_S)
        case ShuttingDownError():
            return ApiError(503, "shutting down", kind="server_error", retry_after_s=RETRY_AFTER_S)
        case NoReplicaError():
            message = "no replica of the model is running; try again later"
            return ApiError(503, message, kind="server_error", retry_after_s=RETRY_AFTER_S)
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the image could not be made", kind="server_error")


def install(api: FastAPI) -> None:
    """Have an application answer every error in this form."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        return as_answer(error).response()

    for kind in (ApiError, InputError, ConfigError, NoModelError, QueueFullError, ShuttingDownError, NoReplicaError):
        api.add_exception_handler(kind, refused)

    @api.exception_handler(RequestValidationError)
    @api.exception_handler(ValidationError)
    async def invalid(_: Request, error: RequestValidationError | ValidationError) -> JSONResponse:
        return JSONResponse(validation_body(error.errors()[0]), status_code=400)

    @api.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_GONE)

    @api.exception_handler(HTTPException)
    async def no_such_route(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(str(error.detail)), status_code=error.status_code, headers=error.headers)
