"""The playground against the service itself: real models draw, real requests are cancelled and refused."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.media import hostile
from tests.serving.http.browser import alert, generate, pixels_shown, status, upload, write
from tests.serving.local_service import Running

pytestmark = pytest.mark.slow


@pytest.fixture
def page_url(served: Running) -> str:
    return served.url


def at(served: Running) -> int:
    """Requests that wait or work."""
    queue = served.parts.service.queue
    return int(served.call(lambda: len(queue) + queue.working))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.05)


def test_a_typed_prompt_and_a_picture_become_images(page: Page) -> None:
    generate(page, "a red circle")
    side = page.evaluate(
        "fetch('/v1/models').then((answer) => answer.json()).then((all) => all.data[0].defaults.width)"
    )
    assert pixels_shown(page) == (side, side)
    expect(page.locator("#facts")).to_contain_text("untrained")
    upload(page, "cat.png", hostile.picture())
    write(page, "in blue")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#history-list > li")).to_have_count(2)


def test_cancel_gives_the_place_in_the_queue_back(page: Page, served: Running) -> None:
    queue = served.parts.service.queue
    slots = queue.slots
    served.call(lambda: vars(queue).update(slots=0))
    try:
        write(page, "a red circle")
        page.get_by_role("button", name="Generate").click()
        wait_for(lambda: at(served) == 1)
        page.keyboard.press("Escape")
        expect(status(page)).to_contain_text("ancelled")
        wait_for(lambda: at(served) == 0)
    finally:
        served.call(lambda: vars(queue).update(slots=slots))
    generate(page, "a red circle")


def test_a_picture_that_cannot_be_read_is_said(page: Page) -> None:
    upload(page, "cat.png", hostile.picture()[:200])
    write(page, "in blue")
    page.get_by_role("button", name="Generate").click()
    expect(alert(page)).to_contain_text("truncated")
