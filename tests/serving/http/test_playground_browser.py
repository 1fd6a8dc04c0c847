"""What a person does in the playground, in headless Chromium, and what then reaches the service."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.serving.http.browser import alert, choose, generate, hand_over, picture, pixels_shown, status, upload, write
from tests.serving.http.fake_service import ANSWER, FakeService, Refusal, model

pytestmark = pytest.mark.slow


def content(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of the only message of a request."""
    [message] = request["messages"]
    assert message["role"] == "user"
    parts: list[dict[str, Any]] = message["content"]
    return parts


def test_a_typed_prompt_becomes_an_image_step_by_step(page: Page, service: FakeService) -> None:
    service.step_s = 0.1
    write(page, "a harbour")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "2")
    assert pixels_shown(page) == (512, 512)
    expect(page.locator("#step")).to_contain_text("Step 4 of 8")
    expect(status(page)).to_contain_text("The image is ready")
    assert pixels_shown(page) == (512, 512)
    expect(page.locator("#facts")).to_contain_text("4221")
    expect(page.locator("#facts")).to_contain_text("models:/harbour/3")
    [request] = service.requests
    assert (request["prompt"], request["stream"], request["partial_images"]) == ("a harbour", True, 3)


def test_the_image_can_be_kept_as_a_file(page: Page, tmp_path: Path) -> None:
    generate(page, "a harbour")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "x2i-4221.png"
    saved = tmp_path / "image.png"
    download.value.save_as(saved)
    assert saved.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("way", ["button", "drop", "paste"])
def test_a_picture_reaches_the_service_whole(page: Page, service: FakeService, way: str) -> None:
    sent = picture(colour="orange")
    if way == "button":
        upload(page, "cat.png", sent)
    else:
        hand_over(page, way, "cat.png", sent)
    expect(page.get_by_role("list", name="Files of the prompt")).to_contain_text("cat.png")
    generate(page, "the same in blue")
    image, words = content(service.requests[0])
    assert words == {"type": "text", "text": "the same in blue"}
    assert image == {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(sent).decode()}"},
    }


def test_videos_and_sounds_are_parts_of_their_own_and_need_no_words(page: Page, service: FakeService) -> None:
    upload(page, "clip.mkv", b"a video", kind="")
    upload(page, "speech.MP3", b"a sound", kind="audio/mp3")
    generate(page, "")
    video, sound = content(service.requests[0])
    assert video == {"type": "video_url", "video_url": {"url": "data:video/x-matroska;base64,YSB2aWRlbw=="}}
    assert sound == {"type": "input_audio", "input_audio": {"data": "YSBzb3VuZA==", "format": "mpeg"}}


def test_a_file_can_be_taken_away_and_added_again(page: Page, service: FakeService) -> None:
    for _ in range(2):
        upload(page, "cat.png", picture())
        page.get_by_role("button", name="Remove cat.png").click()
        expect(page.get_by_role("button", name="Add files")).to_be_focused()
    generate(page, "no cat")
    assert service.requests[0]["prompt"] == "no cat"


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


@pytest.mark.parametrize("way", ["button", "escape"])
def test_cancelling_closes_the_connection(page: Page, service: FakeService, way: str) -> None:
    service.step_s = 0.2
    write(page, "a harbour")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#step")).to_contain_text("Step 2")
    if way == "button":
        page.get_by_role("button", name="Cancel").click()
    else:
        page.keyboard.press("Escape")
    expect(status(page)).to_contain_text("Cancelled")
    expect(alert(page)).to_be_empty()
    deadline = time.monotonic() + 5
    while not service.disconnects and time.monotonic() < deadline:
        time.sleep(0.05)
    assert service.disconnects == 1
    service.step_s = 0.01
    generate(page, "another")  # the page is ready for the next


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


def test_settings_are_sent_and_what_is_left_open_is_not(page: Page, service: FakeService) -> None:
    generate(page, "plain")
    page.get_by_label("Size").select_option("624x416")
    page.get_by_label("Steps").fill("4")
    page.get_by_label("Seed", exact=True).fill("7")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("States").select_option("answer")
    page.get_by_label("Guidance").fill("2.5")
    page.get_by_label("Answer temperature").fill("0.7")
    page.get_by_label("Partial images").select_option("0")
    generate(page, "all")
    plain, full = service.requests
    assert plain == {"prompt": "plain", "model": "harbour", "stream": True, "partial_images": 3}
    assert full == {
        **{"prompt": "all", "model": "harbour", "size": "624x416", "num_inference_steps": 4, "seed": 7},
        **{"states": "answer", "guidance_scale": 2.5, "answer": {"temperature": 0.7}},
        **{"stream": True, "partial_images": 0},
    }
    assert pixels_shown(page) == (624, 416)
    expect(page.locator("#answer")).to_contain_text(ANSWER)


def test_a_model_brings_its_defaults_and_its_kinds_of_input(page: Page, service: FakeService) -> None:
    service.models = [model("deaf", inputs=("text", "image")), model("words", side=64, inputs=("text",))]
    page.reload()
    expect(page.get_by_label("Size")).to_contain_text("Default · 512 × 512")
    expect(page.get_by_label("Steps")).to_have_attribute("placeholder", "8 (default)")
    hand_over(page, "drop", "speech.wav", b"a sound", kind="audio/wav")
    expect(alert(page)).to_contain_text("speech.wav: this model takes no sound")
    upload(page, "cat.png", picture())
    page.get_by_label("Model").select_option("words")
    expect(page.get_by_label("Size")).to_contain_text("Default · 64 × 64")
    expect(page.get_by_role("button", name="Add files")).to_be_hidden()
    page.get_by_role("button", name="Generate").click()
    expect(alert(page)).to_contain_text("cat.png: this model takes no pictures")
    assert not service.requests


def test_history_brings_back_prompt_settings_files_and_image(page: Page, service: FakeService) -> None:
    upload(page, "cat.png", picture())
    page.get_by_label("Size").select_option("416x624")
    page.get_by_label("Steps").fill("3")
    generate(page, "the first")
    page.get_by_role("button", name="Remove cat.png").click()
    page.get_by_label("Size").select_option("")
    page.get_by_label("Steps").fill("")
    page.get_by_label("Seed", exact=True).fill("5")
    page.get_by_label("Model").select_option("sketch")
    generate(page, "the second")
    page.get_by_role("button", name="Bring back: the first, seed 4221").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("the first")
    expect(page.get_by_label("Model")).to_have_value("harbour")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("4221")
    assert pixels_shown(page) == (416, 624)
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("button", name="Bring back")).to_have_count(3)
    first, _, again = service.requests
    assert again == {**first, "seed": 4221}


def test_an_image_can_be_the_next_input_and_its_seed_be_kept(page: Page, service: FakeService) -> None:
    generate(page, "a harbour")
    page.get_by_role("button", name="Keep seed").click()
    page.get_by_role("button", name="Use as input").click()
    generate(page, "the same at night")
    second = service.requests[1]
    assert second["seed"] == 4221
    assert content(second)[0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    page.get_by_role("button", name="Random seed").click()
    generate(page, "and another")
    assert "seed" not in service.requests[2]


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
