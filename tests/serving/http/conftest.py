"""A service with the random miniature, and for tests of the page a browser, a page and a service that only plays one.

To run the same tests against another service, define `page_url` in the file that imports them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page

from tests.serving import local_service
from tests.serving.http import fake_service
from tests.serving.http.browser import launched, opened
from tests.serving.http.fake_service import FakeService
from tests.serving.local_service import Running


@pytest.fixture(scope="module")
def served(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for each test file."""
    state = tmp_path_factory.mktemp("state")
    with local_service.running(lambda: local_service.local_service(model_folder, state)) as server:
        yield server


@pytest.fixture
def http(served: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed with the file: while it runs, `asyncio.run` refuses to work in its thread."""
    with launched() as browser:
        yield browser


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def page_url(service: FakeService) -> Iterator[str]:
    with fake_service.running(fake_service.make_app(service)) as url:
        yield url


@pytest.fixture
def page(browser: Browser, page_url: str) -> Iterator[Page]:
    """The page, open at the size of a laptop."""
    with opened(browser, viewport={"width": 1280, "height": 800}) as page:
        page.goto(page_url)
        yield page
