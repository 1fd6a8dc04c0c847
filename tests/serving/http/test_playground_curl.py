"""The playground's scripts on their own: the curl command through a real shell, events in any pieces, sizes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.serving.http.browser import generate, picture, upload
from tests.serving.http.fake_service import FakeService

pytestmark = pytest.mark.slow


def command_of(page: Page) -> str:
    page.locator("#result summary").click()
    return page.locator("#curl").inner_text()


def run(command: str, *, folder: Path, shell: str = "sh") -> dict[str, Any]:
    done = subprocess.run([shell, "-c", command], cwd=folder, capture_output=True, text=True, timeout=30, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_command_asks_for_the_same_image(page: Page, service: FakeService, tmp_path: Path, shell: str) -> None:
    prompt = """it's "two"\nlines; $HOME `id` \\n !! %s 'quoted' \t 日本 \u202eback\u007f & | > * ~ #"""
    generate(page, prompt)
    answer = run(command_of(page), folder=tmp_path, shell=shell)
    shown, repeated = service.requests
    assert repeated["prompt"] == prompt
    assert repeated == {"prompt": prompt, "model": "harbour", "seed": 4221}
    assert answer["data"][0]["seed"] == 4221
    assert shown["stream"]


def test_the_command_shows_no_hidden_character(page: Page) -> None:
    generate(page, "a\u202eb\u0007c\u200bd")
    command = command_of(page)
    assert all(character.isprintable() or character == "\n" for character in command)
    assert "a\\u202eb\\u0007c\\u200bd" in command


def test_with_files_the_body_is_a_file_that_can_be_saved(page: Page, service: FakeService, tmp_path: Path) -> None:
    upload(page, "cat.png", picture())
    generate(page, "the same in blue")
    command = command_of(page)
    assert "base64" not in command
    with page.expect_download() as download:
        page.get_by_role("button", name="save request.json").click()
    download.value.save_as(tmp_path / download.value.suggested_filename)
    run(command, folder=tmp_path)
    shown, repeated = service.requests
    assert repeated["messages"] == shown["messages"]
    assert repeated["seed"] == 4221


def test_the_key_is_not_in_the_command(page: Page, service: FakeService, tmp_path: Path) -> None:
    service.key = "s3cret"
    page.reload()
    page.get_by_label("API key", exact=True).fill("s3cret")
    page.keyboard.press("Enter")
    generate(page, "a harbour")
    command = command_of(page)
    assert "s3cret" not in command
    assert run(f"X2I_API_KEY=s3cret; {command}", folder=tmp_path)["data"]


def test_the_command_can_be_copied(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    generate(page, "a harbour")
    command = command_of(page)
    page.get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == command


STREAM = """: hello

event: a
data: {"text":
data: "Zoë 😀"}

data:plain

id: 3

event: b
data: last

data: cut off"""
EVENTS = [
    {"name": "a", "data": '{"text":\n"Zoë 😀"}'},
    {"name": "message", "data": "plain"},
    {"name": "b", "data": "last"},
]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 10_000])
def test_events_are_read_in_whatever_pieces_they_arrive(page: Page, ending: str, piece: int) -> None:
    """Pieces of a byte cut characters and line ends in two."""
    found = page.evaluate(
        """async ([bytes, piece]) => {
            const { readEvents } = await import("/playground/events.js");
            const stream = new ReadableStream({ start(controller) {
                for (let at = 0; at < bytes.length; at += piece)
                    controller.enqueue(Uint8Array.from(bytes.slice(at, at + piece)));
                controller.close();
            } });
            const found = [];
            for await (const event of readEvents(stream)) found.push(event);
            return found;
        }""",
        [list(STREAM.replace("\n", ending).encode()), piece],
    )
    assert found == EVENTS


@pytest.mark.parametrize(("width", "height"), [(16, 16), (64, 64), (512, 512), (1024, 1024), (2048, 2048), (768, 1344)])
def test_offered_sizes_are_drawable_and_begin_with_the_model_s_own(page: Page, width: int, height: int) -> None:
    sizes = page.evaluate(
        "async (own) => (await import('/playground/sizes.js')).sizesOf(own)", {"width": width, "height": height}
    )
    assert sizes[0] == {"name": "Default", "width": width, "height": height}
    sides = [(each["width"], each["height"]) for each in sizes]
    assert len(sides) == len(set(sides))
    assert all(side % 16 == 0 and 16 <= side <= 2048 for pair in sides for side in pair)
