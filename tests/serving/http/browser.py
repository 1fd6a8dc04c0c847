"""Headless Chromium, and what a person does in the page, as functions."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""Browsers of the system that will do; playwright's own is a download."""
WAIT_MS = 10_000


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser. Without one the test is skipped, but fails where `CI` is set."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        reason = f"no browser: install one of {', '.join(NAMES)}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=root)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, **context: Any) -> Iterator[Page]:
    """A fresh page. At the end nothing may have failed in it unseen, nor have been against its policy."""
    with browser.new_context(**context) as fresh:
        fresh.set_default_timeout(WAIT_MS)
        page = fresh.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        yield page
        assert not faults


def picture(*, side: int = 32, colour: str = "teal") -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, format="png")
    return buffer.getvalue()


def upload(page: Page, name: str, content: bytes, *, kind: str = "image/png") -> None:
    """Choose a file by the button, as a person does: the browser's own dialogue answers."""
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Add files").click()
    chosen.value.set_files(FilePayload(name=name, mimeType=kind, buffer=content))


def choose(page: Page, path: Path) -> None:
    """Choose a file of the disk by the button."""
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Add files").click()
    chosen.value.set_files(path)


def hand_over(page: Page, event: str, name: str, content: bytes, *, kind: str = "image/png") -> None:
    """Drop or paste a file: the events that a browser sends for it."""
    page.evaluate(
        """([event, name, kind, content]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(content)], name, { type: kind }));
            const given = event === "paste" ? { clipboardData: transfer } : { dataTransfer: transfer };
            const Kind = event === "paste" ? ClipboardEvent : DragEvent;
            document.body.dispatchEvent(new Kind(event, { bubbles: true, cancelable: true, ...given }));
        }""",
        [event, name, kind, list(content)],
    )


def write(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)


def generate(page: Page, prompt: str) -> None:
    """Write a prompt, press the button, wait for the image."""
    write(page, prompt)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#result")).to_be_visible()


def status(page: Page) -> Locator:
    return page.get_by_role("status")


def alert(page: Page) -> Locator:
    return page.get_by_role("alert")


def pixels_shown(page: Page) -> tuple[int, int]:
    """Width and height of the image on the stage once it is decoded; (0, 0) where none is."""
    width, height = page.locator("#image").evaluate(
        "async (image) => { await image.decode(); return [image.naturalWidth, image.naturalHeight]; }"
    )
    return width, height


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def screenshot(page: Page, name: str, *, folder: Path) -> Path:
    """Save what the window shows."""
    path = folder / f"{name}.png"
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, optimize=True)
    return path
