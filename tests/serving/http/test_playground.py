"""The page's router over a real application, and what holds for the page's files whatever a browser does with them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from x2i_platform.serving.http.playground import FOLDER, make_router

FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js")}
HTML = (FOLDER / "index.html").read_text(encoding="utf-8")
STYLES = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.css")}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(make_router())
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_sent_whole_as_what_it_is(client: TestClient, name: str) -> None:
    answer = client.get(f"/playground/{name}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, TYPES[Path(name).suffix])
    assert answer.content == (FOLDER / name).read_bytes()


def test_the_root_is_the_page(client: TestClient) -> None:
    assert client.get("/").content == (FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize("path", ["/", "/playground/main.js", "/playground/theme.css", "/playground/none.js"])
def test_every_answer_keeps_the_browser_to_this_service(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert not re.search(r"unsafe|https?:|\*|data:", headers["Content-Security-Policy"])
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "no-referrer")


@pytest.mark.parametrize(
    "path",
    [
        "/playground/none.js",
        "/playground/",
        "/playground/..%2fapp.py",
        "/playground/%2e%2e/api.py",
        "/playground/../__init__.py",
        "/playground/%00",
        f"/playground/{'x' * 5000}",
    ],
)
def test_what_is_no_file_of_the_page_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert len(answer.content) < 300


def test_a_browser_that_has_a_file_is_not_sent_it_again(client: TestClient) -> None:
    first = client.get("/playground/main.js")
    again = client.get("/playground/main.js", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert client.get("/playground/main.js", headers={"If-None-Match": '"other"'}).status_code == 200
    assert "no-cache" in first.headers["Cache-Control"]


def test_the_page_is_no_part_of_the_api(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}


class Elements(HTMLParser):
    """The elements of the page, each a tag and its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(HTML)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get(attribute))]


ELEMENTS = Elements()


def test_every_id_that_scripts_look_for_is_in_the_page_once() -> None:
    ids = ELEMENTS.values("id")
    assert len(ids) == len(set(ids))
    wanted = {
        name for script in SCRIPTS.values() for name in re.findall(r'(?:byId|getElementById)\("([^"]+)"\)', script)
    }
    icons = {f"icon-{name}" for script in SCRIPTS.values() for name in re.findall(r'icon\("([^"]+)"\)', script)}
    kinds = {"icon-image", "icon-video", "icon-audio"}
    assert wanted | icons | kinds <= set(ids)
    assert len(wanted) > 30


def test_references_within_the_page_lead_somewhere() -> None:
    ids = set(ELEMENTS.values("id"))
    for attribute in ("for", "aria-describedby", "aria-labelledby", "aria-controls"):
        assert set(ELEMENTS.values(attribute)) <= ids, attribute
    assert {
        value.removeprefix("#") for value in ELEMENTS.values("href") if value.startswith("#") and value != "#"
    } <= ids


def test_every_field_has_a_label() -> None:
    labelled = set(ELEMENTS.values("for"))
    for tag, attributes in ELEMENTS.found:
        if tag in ("input", "select", "textarea"):
            assert attributes.get("aria-label") or attributes["id"] in labelled, attributes


def test_scripts_and_styles_are_files_of_the_page() -> None:
    """A policy without `unsafe-inline` runs nothing else."""
    scripts = [attributes["src"] for tag, attributes in ELEMENTS.found if tag == "script"]
    styles = [attributes["href"] for _, attributes in ELEMENTS.found if attributes.get("rel") == "stylesheet"]
    assert scripts == ["playground/theme.js", "playground/main.js"]
    assert sorted(filter(None, styles)) == sorted(f"playground/{name}" for name in STYLES)
    assert not [attributes for tag, attributes in ELEMENTS.found if tag == "style" or "style" in attributes]
    assert not [name for _, attributes in ELEMENTS.found for name in attributes if name.startswith("on")]


def test_every_script_is_reached_from_the_page() -> None:
    reached = {"main.js", "theme.js"}
    unread = ["main.js"]
    while unread:
        names = set(re.findall(r'from "\./([^"]+)"', SCRIPTS[unread.pop()])) - reached
        reached |= names
        unread += names
    assert reached == set(SCRIPTS)


@pytest.mark.parametrize("name", FILES)
def test_nothing_lies_elsewhere(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    addresses = [urlsplit(each).netloc for each in re.findall(r"""(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s"'`)]*""", text)]
    assert set(addresses) <= {"www.w3.org"}  # the name of SVG, which nobody fetches


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_never_read_text_as_markup_or_code(name: str) -> None:
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function|srcdoc", SCRIPTS[name]
    )
    assert not found


@pytest.mark.parametrize("name", FILES)
def test_files_stay_small(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8").count("\n") <= 300


def test_the_files_ship_with_the_package() -> None:
    project = tomllib.loads((FOLDER.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "serving/playground/*" in project["tool"]["setuptools"]["package-data"]["x2i_platform"]


COLOURS = dict(re.findall(r"--([a-z-]+): (light-dark\(.*?\));", STYLES["theme.css"]))
TEXT_ON = [
    *((ink, ground) for ink in ("ink", "soft") for ground in ("ground", "card", "sunken")),
    *(("accent", ground) for ground in ("ground", "card", "wash")),
    *(("alarm", ground) for ground in ("card", "sunken", "alarm-wash")),
    ("on-accent", "accent"),
]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), TEXT_ON)
def test_text_can_be_read(theme: int, ink: str, ground: str) -> None:
    """WCAG 2.2, 1.4.3: text has a contrast of 4.5 to 1."""
    assert contrast(colour(ink, theme), colour(ground, theme)) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["ground", "card"])
def test_the_edges_of_fields_can_be_seen(theme: int, ground: str) -> None:
    """WCAG 2.2, 1.4.11: what shows a control has a contrast of 3 to 1."""
    assert contrast(colour("edge", theme), colour(ground, theme)) >= 3


def colour(name: str, theme: int) -> tuple[float, float, float]:
    """Red, green and blue, 0 to 1, of a colour of the page in a theme."""
    digits = re.findall(r"#([0-9a-f]{3,6})", COLOURS[name])[theme]
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    red, green, blue = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """The contrast ratio of WCAG 2.2: 1 to 21."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(rgb: tuple[float, float, float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
