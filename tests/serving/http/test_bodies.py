"""Bodies that are no requests, the OpenAPI document, and pictures that are fetched from an allowed host."""

from __future__ import annotations

import base64
import dataclasses
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from tests.media import hostile
from tests.serving import local_service
from tests.serving.local_service import Parts, Running
from x2i_platform.media.fetching import Fetcher

ROUTE = "/v1/images/generations"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{", JSON, 400, "the body is not JSON: Expecting property name"),
        (b"", JSON, 400, "the body is not JSON"),
        (b"\xff", JSON, 400, "the body is not JSON: it is not in UTF-8"),
        (b"[" * 200_000, JSON, 400, "the body is not JSON: it is nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", JSON, 400, "the body is not JSON: Exceeds the limit"),
        (b"[]", JSON, 400, "the body: Input should be a valid dictionary"),
        (b'{"prompt": "a"}', {"Content-Type": "text/plain"}, 415, "the body is 'text/plain'; send JSON"),
    ],
)
def test_what_is_no_request_is_the_clients_mistake(
    http: httpx.Client, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    for route in (ROUTE, "/v1/images/edits", "/v1/jobs"):
        answer = http.post(route, content=body, headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]["message"].startswith(message)


def test_the_document_describes_every_body(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for route, model in (
        (ROUTE, "GenerationRequest"),
        ("/v1/images/edits", "EditRequest"),
        ("/v1/jobs", "GenerationRequest"),
    ):
        content = document["paths"][route]["post"]["requestBody"]["content"]
        assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model}"}
        assert "num_inference_steps" in schemas[model]["properties"]
    assert "AnswerConfig" in schemas
    assert http.get("/docs").status_code == 200


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    """A host with one picture; everything else there is a redirect to another host."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/cat.png":
                self.send_response(200)
                self.send_header("Content-Type", "image/png")
                self.end_headers()
                self.wfile.write(hostile.picture())
            else:
                self.send_response(302)
                self.send_header("Location", "http://169.254.169.254/latest/meta-data")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()


@pytest.fixture
def fetching(pictures: str, model_folder: Path, tmp_path: Path) -> Iterator[Running]:
    def make() -> Parts:
        parts = local_service.local_service(model_folder, tmp_path)
        parts.service._fetcher = Fetcher([pictures], is_public=lambda _: True)
        return dataclasses.replace(parts)

    with local_service.running(make) as server:
        yield server


def test_a_picture_of_an_allowed_host_is_as_good_as_a_data_url(fetching: Running, pictures: str) -> None:
    def ask(url: str) -> httpx.Response:
        said = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
        return httpx.post(f"{fetching.url}{ROUTE}", json={"messages": said, "seed": 3}, timeout=60)

    data_url = f"data:image/png;base64,{base64.b64encode(hostile.picture()).decode()}"
    fetched, given = ask(f"{pictures}/cat.png"), ask(data_url)
    assert fetched.status_code == 200, fetched.text
    assert fetched.json()["data"] == given.json()["data"]
    for url in (f"{pictures}/redirect", "http://example.com/cat.png", "file:///etc/passwd"):
        refused = ask(url)
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


def test_without_an_allowed_host_nothing_is_fetched(http: httpx.Client, pictures: str) -> None:
    prompt = [{"type": "image", "image": f"{pictures}/cat.png"}]
    answer = http.post(ROUTE, json={"prompt": prompt})
    assert "nothing is fetched" in answer.json()["error"]["message"]
    edit = http.post("/v1/images/edits", json={"prompt": "a", "images": [{"image_url": f"{pictures}/cat.png"}]})
    assert edit.status_code == 400
