"""OpenAI's batch files on a real Ray, offline: answers as the service gives them, line by line, once."""

from __future__ import annotations

import base64
import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageChops

from pipelines.generate import run
from pipelines.image_folder import GenerationSummary
from tests.media import hostile
from tests.pipelines.killed import run_until_images, written
from x2i_platform.config import AnswerConfig
from x2i_platform.generation.content import parse_prompt
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.generation.loading import load_prompt

URL = "/v1/images/generations"
NO_CLUSTER = "127.0.0.1:1"
"""Passing it proves that a run needed no Ray."""
ONE_BY_ONE = ("run.generate.batch_size=1",)
"""A batch of another size would round differently."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A worker has one CPU, so its sums are rounded as those of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def line(custom_id: str, *, url: str = URL, **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def batch(
    model: Path, *lines: str, out: Path, address: str, called: tuple[str, str] | None = None
) -> GenerationSummary:
    requests = out.with_suffix(".jsonl")
    requests.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run(
        model,
        requests=str(requests),
        out=str(out),
        overrides=ONE_BY_ONE,
        address=address,
        called=called,
        on_progress=lambda *_: None,
    )


def rows(path: Path) -> dict[str, dict[str, Any]]:
    """Lines of JSON by `custom_id`, each there once."""
    found = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    ids = [row["custom_id"] for row in found]
    assert len(set(ids)) == len(ids)
    return dict(zip(ids, found, strict=True))


def image(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def same(one: Image.Image, other: Image.Image) -> bool:
    return ImageChops.difference(one.convert("RGB"), other).getbbox() is None


PICTURE = f"data:image/png;base64,{base64.b64encode(hostile.picture()).decode()}"
LINES = (
    line("a", prompt="a red circle", seed=5),
    line("two", prompt="a blue square", n=2, seed=7, size="96x64", num_inference_steps=1),
    line("jpeg", prompt="a green star", output_format="jpeg", model="m"),
    line("long", prompt="word " * 300),
    line("bad", prompt="a", sede=1),
    line("a", prompt="again"),
    line("other", url="/v1/embeddings", input="a"),
    line("answer", prompt="a", states="answer", answer={"max_tokens": 4}, seed=3),
    line(
        "seen",
        seed=1,
        prompt=[
            {"type": "image_url", "image_url": {"url": PICTURE}},
            {"type": "text", "text": "in blue"},
        ],
    ),
    line("edit", url="/v1/images/edits", seed=1, prompt="in blue", images=[{"image_url": PICTURE}]),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches") / "out"


@pytest.fixture(scope="module")
def first(model_folder: Path, out: Path, ray_cluster: str) -> GenerationSummary:
    return batch(model_folder, *LINES, out=out, address=ray_cluster, called=("models:/m@champion", "models:/m/3"))


def test_good_lines_are_answered_as_the_service_does(first: GenerationSummary, out: Path, model_folder: Path) -> None:
    assert (first.requests, first.images, first.made, first.failed) == (10, 7, 7, 4)
    output = rows(out / "output.jsonl")
    assert list(output) == ["a", "two", "jpeg", "answer", "seen", "edit"]
    body = output["a"]["response"]["body"]
    assert (output["a"]["response"]["status_code"], output["a"]["error"]) == (200, None)
    assert (body["model"], body["version"], len(body["digest"])) == ("models:/m@champion", "models:/m/3", 16)
    generator = Generator.load(model_folder)
    defaults = generator.recipe.generate
    [expected] = generator.generate([ImageRequest("a red circle", 5, defaults)])
    assert same(image(body["data"][0]), expected.image)
    assert image(body["data"][0]).info["prompt"] == "a red circle"
    two = output["two"]["response"]["body"]["data"]
    assert [item["seed"] for item in two] == [7, 8]
    smaller = defaults.model_copy(update={"width": 96, "num_inference_steps": 1})
    [expected] = generator.generate([ImageRequest("a blue square", 8, smaller)])
    assert same(image(two[1]), expected.image)
    seen, edited = (output[key]["response"]["body"]["data"][0] for key in ("seen", "edit"))
    assert same(image(seen), image(edited).convert("RGB"))
    messages = parse_prompt([{"type": "image", "image": PICTURE}, {"type": "text", "text": "in blue"}], folder=None)
    prompt = load_prompt(messages, media=generator.recipe.media)
    [expected] = generator.generate([ImageRequest(prompt, 1, defaults)])
    assert same(image(edited), expected.image)
    jpeg = output["jpeg"]["response"]["body"]
    assert (jpeg["output_format"], image(jpeg["data"][0]).format) == ("jpeg", "JPEG")
    answering = defaults.model_copy(update={"states": "answer", "answer": AnswerConfig(max_tokens=4)})
    [expected] = generator.generate([ImageRequest("a", 3, answering)])
    [answered] = output["answer"]["response"]["body"]["data"]
    assert answered["revised_prompt"] == expected.answer


def test_bad_lines_say_why(first: GenerationSummary, out: Path) -> None:
    found = [json.loads(text) for text in (out / "errors.jsonl").read_text().splitlines()]
    told = [(row["custom_id"], row["error"]["code"], row["response"]["status_code"]) for row in found]
    assert told == [
        ("long", "invalid_request", 400),
        ("bad", "invalid_request", 400),
        ("a", "duplicate_custom_id", 400),
        ("other", "invalid_url", 400),
    ]
    assert "at most 128 fit" in found[0]["response"]["body"]["error"]["message"]
    assert found[1]["response"]["body"]["error"]["param"] == "sede"


def test_the_images_have_an_index_and_a_sheet_too(first: GenerationSummary, out: Path) -> None:
    index = pq.read_table(out / "index.parquet").to_pylist()
    assert [(row["id"], row["seed"]) for row in index][:3] == [("a", 5), ("two", 7), ("two", 8)]
    assert all((out / row["file"]).exists() for row in index)
    assert (out / "contact_sheet.png").exists()


def test_in_another_order_nothing_is_made_again(first: GenerationSummary, model_folder: Path, out: Path) -> None:
    shuffled = [each for each in LINES if '"again"' not in each]
    random.Random(0).shuffle(shuffled)
    before = rows(out / "output.jsonl")
    called = ("models:/m@champion", "models:/m/3")
    # The line that failed is tried again, and nothing else; without it no cluster is asked for.
    shuffled = [each for each in shuffled if "word word" not in each]
    again = batch(model_folder, *shuffled, out=out, address=NO_CLUSTER, called=called)
    assert (again.images, again.made) == (7, 0)
    after = rows(out / "output.jsonl")
    assert {key: row["response"]["body"]["data"] for key, row in after.items()} == {
        key: row["response"]["body"]["data"] for key, row in before.items()
    }


@pytest.mark.slow
def test_killed_and_run_again_every_line_is_answered_once(tmp_path: Path, model_folder: Path, ray_cluster: str) -> None:
    """The whole command, killed with -9 as soon as it has made something."""
    (tmp_path / "in.jsonl").write_text("\n".join(line(str(n), prompt=f"a {n}", seed=n) for n in range(40)))
    command = [
        *(sys.executable, "-m", "cli", "generate", str(model_folder), "--requests", str(tmp_path / "in.jsonl")),
        *("--out", str(tmp_path / "out"), "--set", *ONE_BY_ONE, "--address", ray_cluster, "--json"),
    ]
    images = tmp_path / "out" / "images"
    before = run_until_images(command, images, count=3)
    assert 3 <= len(before) < 40
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    assert json.loads(done.stdout)["made"] == 40 - len(before)
    assert before.items() <= written(images).items()
    output = rows(tmp_path / "out" / "output.jsonl")
    assert [image(output[str(n)]["response"]["body"]["data"][0]).size for n in range(40)] == [(64, 64)] * 40
    assert (tmp_path / "out" / "errors.jsonl").read_bytes() == b""
    assert len(list(images.iterdir())) == 40
