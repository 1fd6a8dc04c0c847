"""How the playground looks and what a keyboard reaches: two widths, two themes, and text that wants to be markup.

    X2I_SCREENSHOTS=docs/images pytest -m slow tests/serving/http/test_playground_screen.py -k "looks and not 390-light"

writes the pictures of docs/playground.md.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.serving.http.browser import alert, generate, hand_over, opened, overflow, picture, screenshot, status, write
from tests.serving.http.fake_service import FakeService, Refusal, landscape, model

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}
LAPTOP = {"width": 1280, "height": 800}
MARKUP = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script><b>&amp;\''
CONTROLS = "button, a[href], input, select, textarea, summary"


@pytest.fixture
def phone(browser: Browser, page_url: str) -> Iterator[Page]:
    with opened(browser, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        page.goto(page_url)
        yield page


def folder_of_pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("X2I_SCREENSHOTS") or tmp_path)


def unreachable(page: Page) -> list[str]:
    """Controls that a finger can't press: outside of the window's width, or under something else."""
    found: list[str] = page.evaluate(
        """(controls) => [...document.querySelectorAll(controls)]
            .filter((control) => control.checkVisibility() && !control.classList.contains("skip") && !control.disabled)
            .filter((control) => {
                control.scrollIntoView({ block: "center", behavior: "instant" });
                const { left, right, top, bottom } = control.getBoundingClientRect();
                const hit = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
                return left < 0 || right > innerWidth || !(control.contains(hit) || hit?.contains(control));
            })
            .map((control) => control.outerHTML.slice(0, 120))""",
        CONTROLS,
    )
    return found


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, LAPTOP], ids=["390", "1280"])
def test_the_page_looks_right_at_every_width(
    browser: Browser, page_url: str, service: FakeService, tmp_path: Path, theme: str, size: dict[str, int]
) -> None:
    """Nothing is cut off in any state: empty, working, done, all folded parts open, refused."""
    name = f"playground-{size['width']}-{theme}"
    with opened(browser, viewport=size, color_scheme=theme) as page:
        page.goto(page_url)
        assert overflow(page) == 0
        for seed, prompt in ((11, "an island in the evening"), (5, "hills under a violet sky")):
            page.get_by_label("Seed", exact=True).fill(str(seed))
            generate(page, prompt)
        hand_over(page, "drop", "hills.png", picture_of_hills())
        service.hold_at = 4
        page.get_by_label("Seed", exact=True).fill("3")
        write(page, "the same hills an hour before a storm, in oil, with a wide brush")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("#step")).to_contain_text("Step 4")
        assert (overflow(page), unreachable(page)) == (0, [])
        service.hold_at = None
        expect(page.locator("#result")).to_be_visible()
        page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
        shot = screenshot(page, name, folder=folder_of_pictures(tmp_path))
        assert 5_000 < shot.stat().st_size < 300_000
        for summary in page.locator("summary").all():
            summary.click()
        service.refusal = Refusal(400, "x" * 300)
        assert (overflow(page), unreachable(page)) == (0, [])
        page.get_by_role("button", name="Generate").click()
        expect(alert(page)).to_contain_text("xxx")
        assert (overflow(page), unreachable(page)) == (0, [])


def picture_of_hills() -> bytes:
    buffer = io.BytesIO()
    landscape(240, 240, seed=2).save(buffer, format="png")
    return buffer.getvalue()


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


LIGHT, DARK = "rgb(244, 245, 244)", "rgb(16, 19, 20)"


@pytest.mark.parametrize(("system", "own", "other"), [("light", LIGHT, DARK), ("dark", DARK, LIGHT)])
def test_the_theme_is_the_system_s_until_a_person_chooses(
    browser: Browser, page_url: str, system: str, own: str, other: str
) -> None:
    with opened(browser, color_scheme=system) as page:
        page.goto(page_url)
        assert background(page) == own
        button = page.get_by_role("button", name="Dark theme")
        expect(button).to_have_attribute("aria-pressed", str(own == DARK).lower())
        button.click()
        assert background(page) == other
        expect(button).to_have_attribute("aria-pressed", str(other == DARK).lower())
        page.reload()
        assert background(page) == other


def test_the_keyboard_alone_is_enough(page: Page, service: FakeService) -> None:
    """Every stop shows its focus, nothing traps it, and a whole round needs no mouse."""
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the prompt")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    service.hold_at = 4
    page.keyboard.type("a harbour")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(status(page)).to_contain_text("Cancelled")
    service.hold_at = None
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Generate")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_focused()
    stops = tab_stops(page)
    for name in (
        "attach",
        "generate",
        "model",
        "size",
        "steps",
        "seed",
        "download",
        "reuse-seed",
        "use-image",
        "theme",
    ):
        assert stops.get(name) is True, f"{name}: {stops}"
    assert all(stops.values()), stops
    page.locator("#history-list button").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("4221")


def tab_stops(page: Page) -> dict[str, bool]:
    """What Tab reaches from the page's begin to its end, and whether each shows that it has the focus."""
    page.locator(".skip").focus()
    stops: dict[str, bool] = {}
    while len(stops) < 60:
        page.keyboard.press("Tab")
        name, shown = page.evaluate(
            """() => {
                const here = document.activeElement;
                const boxed = here.tagName === "TEXTAREA" && here.closest(".box").matches(":focus-within");
                const name = here.id || here.ariaLabel || here.textContent.trim();
                return [name, boxed || getComputedStyle(here).outlineStyle !== "none"];
            }"""
        )
        if name in stops or here_is_the_body(page):
            break
        stops[name] = shown
    return stops


def here_is_the_body(page: Page) -> bool:
    return bool(page.evaluate("document.activeElement === document.body"))


def test_a_long_prompt_is_sent_whole_and_stays_in_its_box(phone: Page, service: FakeService) -> None:
    prompt = "a harbour at dawn, " * 900 + "w" * 900
    generate(phone, prompt)
    assert service.requests[0]["prompt"] == prompt
    assert (overflow(phone), unreachable(phone)) == (0, [])
    box = phone.get_by_label("Prompt", exact=True).bounding_box()
    assert box and box["height"] <= PHONE["height"] / 2


def test_text_from_outside_is_never_markup(page: Page, service: FakeService) -> None:
    service.models = [model(MARKUP)]
    page.reload()
    expect(page.get_by_label("Model")).to_have_value(MARKUP)
    hand_over(page, "drop", f"{MARKUP.replace('/', '')}.png", picture())
    generate(page, MARKUP)
    page.locator("#result summary").click()
    expect(page.locator("#facts")).to_contain_text(MARKUP)
    service.refusal = Refusal(400, MARKUP)
    page.get_by_role("button", name="Generate").click()
    expect(alert(page)).to_contain_text(MARKUP)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x], main script, main b").count() == 0
    assert overflow(page) == 0
