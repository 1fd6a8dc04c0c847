"""What the service is: alive, ready, its models, its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from x2i_platform.serving.catalogue import Offer
from x2i_platform.serving.http.errors import RETRY_AFTER_S, ApiError
from x2i_platform.serving.metrics import CONTENT_TYPE
from x2i_platform.serving.service import Service


def make_router(service: Service, *, started_at: int, problems: Mapping[str, str]) -> APIRouter:
    """The routes. `problems` says why a model is not at the version that its alias names."""
    router = APIRouter(tags=["status"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """The HTTP process is alive."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> JSONResponse:
        """Models are loaded and warm; they may be busy. 503 where they are not."""
        missing = "shutting down" if service.stopping else await service.backend.ready()
        facts = service.catalogue.offers[0].pinned.facts
        body = {"status": missing or "ready", **facts, **({"problems": dict(problems)} if problems else {})}
        headers = {"Retry-After": str(RETRY_AFTER_S)} if missing else {}
        return JSONResponse(body, status_code=503 if missing else 200, headers=headers)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models; the first is the default."""
        return {"object": "list", "data": [_model(offer, started_at) for offer in service.catalogue.offers]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        offer = service.catalogue.find(name)
        if offer is None:
            raise ApiError(404, f"there is no model {name[:100]!r} here", param="model", code="model_not_found")
        return _model(offer, started_at)

    return router


def _model(offer: Offer, created: int) -> dict[str, Any]:
    facts = offer.pinned.facts
    return {
        "id": facts["model"],
        "object": "model",
        "created": created,
        "owned_by": "x2i-platform",
        "version": facts["version"],
        "digest": facts["digest"],
        "defaults": offer.recipe.generate.model_dump(mode="json"),
        "inputs": list(offer.inputs),
    }
