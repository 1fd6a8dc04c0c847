"""The playground: a static page at `/` and its files under `/playground/`, read from the package once.

Invariants: a name that is no file of the page is a 404 and touches no disk; every answer carries a policy under which a
browser runs no inline script or style and speaks to this service alone; a cached file is asked for again by its ETag,
so a new version is seen at once.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

FOLDER = Path(__file__).parent.parent / "playground"
INDEX = "index.html"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",  # images of the service and thumbnails of dropped files are blobs of the page
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",  # forms are read by the scripts, and sent by fetch
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Asset:
    """A file of the page, as it is sent."""

    content: bytes
    content_type: str

    @property
    def etag(self) -> str:
        """The entity tag: a digest of the bytes, in quotes."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def read_assets() -> dict[str, Asset]:
    """The files of the page by name."""
    return {path.name: Asset(path.read_bytes(), CONTENT_TYPES[path.suffix]) for path in sorted(FOLDER.iterdir())}


def make_router() -> APIRouter:
    """Routes of the page: `/` and `/playground/NAME`. Neither is in the API's schema."""
    router = APIRouter(include_in_schema=False)
    assets = read_assets()

    @router.get("/")
    async def page(request: Request) -> Response:
        return answer(assets[INDEX], seen=request.headers.get("If-None-Match"))

    @router.get("/playground/{name}")
    async def file(name: str, request: Request) -> Response:
        if name not in assets:
            raise HTTPException(404, f"the playground has no file {name[:100]!r}", headers=HEADERS)
        return answer(assets[name], seen=request.headers.get("If-None-Match"))

    return router


def answer(asset: Asset, *, seen: str | None) -> Response:
    """A file, or 304 without a body for a browser that has it (`seen` is its If-None-Match)."""
    headers = {**HEADERS, "ETag": asset.etag}
    if seen is not None and asset.etag in seen:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.content_type, headers=headers)
