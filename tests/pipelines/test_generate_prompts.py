"""Prompts of more than text, in JSON and in Parquet, become the images that `Generator` makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageChops

from tests.media import hostile
from tests.pipelines.request_runs import NO_CLUSTER, generate, index_of, rows, write
from x2i_platform.config import AnswerConfig
from x2i_platform.generation.content import parse_prompt
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.generation.loading import load_prompt


def test_pictures_and_videos_are_parts_of_a_prompt(model_folder: Path, tmp_path: Path, ray_cluster: str) -> None:
    (tmp_path / "cat.png").write_bytes(hostile.picture())
    (tmp_path / "a.mp4").write_bytes(hostile.video())
    words = {"type": "text", "text": "in blue"}
    prompts = (
        [words, {"type": "image", "image": "cat.png"}],
        [{"type": "video", "video": "a.mp4"}],
        [{"type": "image", "image": "gone.png"}],
        [{"type": "image", "image": "https://example.com/cat.png"}],
    )
    lines = [json.dumps({"prompt": prompt, "seed": 1}) for prompt in prompts]
    requests = write(tmp_path / "requests.jsonl", *lines)
    summary = generate(model_folder, requests, out=tmp_path / "out", address=ray_cluster)
    assert (summary.images, summary.failed) == (2, 2)
    first, second = index_of(tmp_path / "out")
    assert (first["prompt"], second["prompt"]) == ("in blue", "[video]")
    assert [part["kind"] for part in first["media"] + second["media"]] == ["image", "video"]
    assert [row["line"] for row in rows(tmp_path / "out" / "errors.jsonl")] == [3, 4]
    # The same prompt in this process.
    generator = Generator.load(model_folder)
    media = generator.recipe.media
    prompt = load_prompt(parse_prompt(prompts[0], folder=tmp_path), media=media)
    [(expected, _)] = generator.generate([ImageRequest(prompt, 1, generator.recipe.generate)])
    with Image.open(tmp_path / "out" / first["file"]) as image:
        assert ImageChops.difference(image.convert("RGB"), expected).getbbox() is None
        assert json.loads(image.info["x2i"])["media"] == [list(part.values()) for part in first["media"]]
    # Another picture under the same name is another image; nothing else is made again.
    (tmp_path / "cat.png").write_bytes(hostile.picture(size=(32, 32)))
    again = generate(model_folder, requests, out=tmp_path / "out", address=ray_cluster)
    assert (again.images, again.made) == (2, 1)


def test_answers_and_dialogues(model_folder: Path, tmp_path: Path, ray_cluster: str) -> None:
    """The answer that conditioned an image is in the index and in the PNG, and still is after another run."""
    said = [
        {"role": "user", "content": "a cat"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
    ]
    lines = [
        json.dumps({"prompt": "a red circle", "states": "answer"}),
        json.dumps({"messages": said, "states": "both", "answer": {"temperature": 1.2, "max_tokens": 5}, "seed": 3}),
        json.dumps({"prompt": "a red circle"}),
        json.dumps({"prompt": "a", "messages": said}),
    ]
    requests, out = write(tmp_path / "requests.jsonl", *lines), tmp_path / "out"
    summary = generate(model_folder, requests, out=out, address=ray_cluster)
    assert (summary.images, summary.failed) == (3, 1)
    first, second, third = index = index_of(out)
    generator = Generator.load(model_folder)
    prompt = load_prompt(parse_prompt(said, folder=None), media=generator.recipe.media)
    settings = generator.recipe.generate.model_copy(
        update={"states": "both", "answer": AnswerConfig(temperature=1.2, max_tokens=5)}
    )
    [expected] = generator.generate([ImageRequest(prompt, 3, settings)])
    assert second["answer"] == expected.answer
    with Image.open(out / second["file"]) as image:
        assert image.info["answer"] == expected.answer
        assert ImageChops.difference(image.convert("RGB"), expected.image).getbbox() is None
    assert first["answer"]
    assert third["answer"] is None
    assert (second["prompt"], second["settings"]["answer"]["max_tokens"]) == ("b", 5)
    (out / "index.parquet").unlink()
    for made in (0, 0):
        assert generate(model_folder, requests, out=out, address=ray_cluster).made == made
        assert index_of(out) == index


def test_rows_of_parquet_become_the_images_of_lines_of_json(
    model_folder: Path, tmp_path: Path, ray_cluster: str
) -> None:
    """The bytes of a picture in a cell are the picture in a file: the second run finds nothing to make."""
    picture = hostile.picture()
    (tmp_path / "cat.png").write_bytes(picture)
    words = {"type": "text", "text": "in blue"}
    lines = [
        json.dumps({"prompt": [words, {"type": "image", "image": "cat.png"}], "seed": 1}),
        json.dumps({"prompt": [{"type": "text", "text": "a"}], "seed": 2, "width": 96}),
        json.dumps({"prompt": [{"type": "text", "text": " "}], "seed": 3}),
    ]
    made = generate(model_folder, write(tmp_path / "r.jsonl", *lines), out=tmp_path / "out", address=ray_cluster)
    assert (made.made, made.failed) == (2, 1)
    index = index_of(tmp_path / "out")
    table = [
        {"prompt": [words, {"type": "image", "bytes": picture}], "seed": 1.0, "width": None},
        {"prompt": [{"type": "text", "text": "a"}], "seed": 2.0, "width": 96.0},
        {"prompt": [{"type": "text", "text": " "}], "seed": 3.0, "width": None},
    ]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "r.parquet")
    again = generate(model_folder, str(tmp_path / "r.parquet"), out=tmp_path / "out", address=NO_CLUSTER)
    assert (again.images, again.made, again.failed) == (2, 0, 1)
    assert index_of(tmp_path / "out") == index
    assert [row["line"] for row in rows(tmp_path / "out" / "errors.jsonl")] == [3]


def test_bytes_in_a_table_reach_the_model(model_folder: Path, tmp_path: Path, ray_cluster: str) -> None:
    part = {"type": "image", "image": {"bytes": hostile.picture(), "path": None}}
    pq.write_table(pa.Table.from_pylist([{"prompt": [part], "seed": 4}]), tmp_path / "r.parquet")
    made = generate(model_folder, str(tmp_path / "r.parquet"), out=tmp_path / "out", address=ray_cluster)
    assert (made.made, made.failed) == (1, 0)
    generator = Generator.load(model_folder)
    (tmp_path / "cat.png").write_bytes(hostile.picture())
    messages = parse_prompt([{"type": "image", "image": "cat.png"}], folder=tmp_path)
    prompt = load_prompt(messages, media=generator.recipe.media)
    [expected] = generator.generate([ImageRequest(prompt, 4, generator.recipe.generate)])
    with Image.open(tmp_path / "out" / index_of(tmp_path / "out")[0]["file"]) as image:
        assert ImageChops.difference(image.convert("RGB"), expected.image).getbbox() is None
