"""A browser for each test file, a page and the service behind it for each test.

To run the same tests against another service, define `page_url` in the file that imports them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.serving.http.browser import launched, opened
from tests.serving.http.fake_service import FakeService, make_app, running


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
    with running(make_app(service)) as url:
        yield url


@pytest.fixture
def page(browser: Browser, page_url: str) -> Iterator[Page]:
    """The page, open at the size of a laptop."""
    with opened(browser, viewport={"width": 1280, "height": 800}) as page:
        page.goto(page_url)
        yield page
