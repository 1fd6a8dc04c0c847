"""What goes wrong in the playground, and what it then says: refusals of the service, keys, files that can't be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.serving.http.browser import alert, choose, generate, status, write
from tests.serving.http.fake_service import FakeService, Refusal

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("notes.pdf", 9, "notes.pdf is no picture, video or sound"),
        ("vector.svg", 9, "vector.svg is no picture, video or sound"),
        ("huge.png", 31 * 1024**2, "huge.png has 31.0 MB; pictures may have 30.0 MB"),
        ("none.wav", 0, "none.wav is empty"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_at_once(
    page: Page, tmp_path: Path, name: str, size: int, reason: str
) -> None:
    (tmp_path / name).write_bytes(bytes(size))
    choose(page, tmp_path / name)
    expect(alert(page)).to_contain_text(reason)
    expect(page.locator("#chips li")).to_have_count(0)


@pytest.mark.parametrize(
    ("refusal", "details"),
    [
        (Refusal(429, "too many requests of this key", retry_after=7), "HTTP 429 · try again in 7 s"),
        (Refusal(400, "size: must be WIDTHxHEIGHT"), "HTTP 400"),
        (Refusal(503, "the queue is full", retry_after=5), "HTTP 503"),
        (Refusal(200, "the replica went away", late=True), ""),
    ],
)
def test_an_error_is_shown_in_the_service_s_words(
    page: Page, service: FakeService, refusal: Refusal, details: str
) -> None:
    service.refusal = refusal
    write(page, "a harbour")
    page.get_by_role("button", name="Generate").click()
    expect(alert(page)).to_contain_text(refusal.message)
    expect(alert(page)).to_contain_text(details)
    service.refusal = None
    generate(page, "again")
    expect(alert(page)).to_be_empty()


def test_a_service_that_is_gone_is_said_to_be(page: Page, page_url: str) -> None:
    page.wait_for_load_state("networkidle")
    page.route("**/v1/**", lambda route: route.abort())
    write(page, "a harbour")
    page.get_by_role("button", name="Generate").click()
    expect(alert(page)).to_contain_text("can't be reached")


def test_an_answer_that_is_no_json_is_an_error_too(page: Page) -> None:
    page.route("**/v1/images/generations", lambda route: route.fulfill(status=502, body="<h1>Bad gateway</h1>"))
    write(page, "a harbour")
    page.get_by_role("button", name="Generate").click()
    expect(alert(page)).to_contain_text("HTTP 502")


def test_a_stream_that_breaks_off_is_no_image(page: Page) -> None:
    headers = {"Content-Type": "text/event-stream"}
    page.route("**/v1/images/generations", lambda route: route.fulfill(headers=headers, body=": working\n\n"))
    write(page, "a harbour")
    page.get_by_role("button", name="Generate").click()
    expect(alert(page)).to_contain_text("ended before the image was ready")


def test_a_key_is_asked_for_used_and_kept_in_the_tab_alone(page: Page, service: FakeService, page_url: str) -> None:
    service.key = "s3cret"
    page.reload()
    field = page.get_by_label("API key", exact=True)
    expect(field).to_be_focused()
    expect(alert(page)).to_contain_text("Bearer KEY")
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(alert(page)).to_contain_text("Bearer KEY")
    field.fill("s3cret")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Model")).to_have_value("harbour")
    expect(field).to_be_hidden()
    generate(page, "a harbour")
    page.reload()
    generate(page, "kept over a reload")
    assert page.evaluate("JSON.stringify({ ...localStorage })").find("s3cret") == -1
    assert "s3cret" not in page.locator("html").inner_html()
    other = page.context.new_page()
    other.goto(page_url)
    expect(other.get_by_label("API key", exact=True)).to_be_visible()


def test_a_key_that_is_wanted_later_does_not_lose_the_wish(page: Page, service: FakeService) -> None:
    expect(page.get_by_label("Model")).to_have_value("harbour")
    service.key = "s3cret"
    write(page, "a harbour")
    page.get_by_role("button", name="Generate").click()
    page.get_by_label("API key", exact=True).fill("s3cret")
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_be_visible()
    assert service.requests[0]["prompt"] == "a harbour"
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget the key").click()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_label("API key", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(status(page)).to_contain_text("Cancelled")


@pytest.mark.parametrize("prompt", ["", "  \n "])
def test_nothing_to_draw_is_said(page: Page, service: FakeService, prompt: str) -> None:
    write(page, prompt)
    page.get_by_role("button", name="Generate").click()
    expect(alert(page)).to_contain_text("Write a prompt")
    assert not service.requests


def test_a_seed_that_is_no_number_is_not_sent(page: Page, service: FakeService) -> None:
    write(page, "a harbour")
    page.get_by_label("Seed", exact=True).fill("-1")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_label("Seed", exact=True)).to_be_focused()
    assert not service.requests


def test_models_are_asked_for_again_when_the_service_comes_up(page: Page, service: FakeService) -> None:
    page.route("**/v1/models", lambda route: route.fulfill(status=503, body=json.dumps(Refusal(503, "loading").body())))
    page.reload()
    expect(alert(page)).to_contain_text("loading")
    page.unroute("**/v1/models")
    generate(page, "a harbour")
    assert "model" not in service.requests[0]
    expect(page.get_by_label("Model")).to_have_value("harbour")
