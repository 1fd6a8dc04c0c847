"""What a person does in the playground, in headless Chromium, and what then reaches the service."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect

from tests.serving.http.browser import alert, generate, hand_over, opened, picture, pixels_shown, status, upload, write
from tests.serving.http.fake_service import ANSWER, FakeService, make_app, model, running

pytestmark = pytest.mark.slow


def content(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of the only message of a request."""
    [message] = request["messages"]
    assert message["role"] == "user"
    parts: list[dict[str, Any]] = message["content"]
    return parts


def test_a_typed_prompt_becomes_an_image_step_by_step(page: Page, service: FakeService) -> None:
    service.hold_at = 2
    write(page, "a harbour")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "2")
    assert pixels_shown(page) == (512, 512)
    service.hold_at = 4
    expect(page.locator("#step")).to_contain_text("Step 4 of 8")
    expect(page.locator("#result")).to_be_hidden()
    service.hold_at = None
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


@pytest.mark.parametrize("way", ["button", "escape"])
def test_cancelling_closes_the_connection(page: Page, service: FakeService, way: str) -> None:
    service.hold_at = 2
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
    service.hold_at = None
    generate(page, "another")  # the page is ready for the next


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


def test_the_page_works_behind_a_prefix(browser: Browser, service: FakeService) -> None:
    outer = FastAPI()
    outer.mount("/models/harbour", make_app(service))
    with running(outer) as url, opened(browser) as page:
        page.goto(f"{url}models/harbour/")
        generate(page, "a harbour")
        page.locator("#result summary").click()
        expect(page.locator("#curl")).to_contain_text(f"{url}models/harbour/v1/images/generations")
