"""Request files to images on a real Ray: what is missing is made, what is there is kept, what is wrong is reported."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageChops

import cli
from pipelines.generate import run
from pipelines.generator_pool import GeneratorActor
from pipelines.image_folder import GenerationSummary
from tests.media import hostile
from tests.pipelines.killed import run_until_images, written
from x2i_platform.config import AnswerConfig, Recipe
from x2i_platform.errors import ClusterError, ConfigError, InputError, WeightsError
from x2i_platform.features.files import Files
from x2i_platform.generation.content import parse_prompt
from x2i_platform.generation.generator import Generated, Generator, ImageRequest
from x2i_platform.generation.loading import load_prompt

NO_CLUSTER = "127.0.0.1:1"
"""Passing it proves that a run needed no Ray."""
LINES = (
    '{"prompt": "a red circle", "tag": "one", "note": "\\ud800"}',
    "not JSON",
    '{"prompt": "a blue square", "seed": 5, "width": 96, "id": "b"}',
    '{"prompt": "a", "sede": 5}',
    '{"prompt": "ein grüner Kreis 圆", "tag": {"nested": [1]}}',
)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def generate(
    model: Path, requests: str, *, out: Path | str, address: str, overrides: tuple[str, ...] = ()
) -> GenerationSummary:
    return run(
        model, requests=requests, out=str(out), overrides=overrides, address=address, on_progress=lambda *_: None
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def index_of(out: Path) -> list[dict[str, Any]]:
    """The rows of an index, as DuckDB reads them."""
    found = duckdb.sql(f"select * from '{out / 'index.parquet'}' order by line")
    assert found is not None
    return list(found.to_arrow_table().to_pylist())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("generated") / "a" / "fresh folder"


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("requests") / "requests.jsonl", *LINES)


@pytest.fixture(scope="module")
def first(model_folder: Path, requests: str, out: Path, ray_cluster: str) -> GenerationSummary:
    """The first run, one image at a time: a batch of another size would round differently."""
    return generate(model_folder, requests, out=out, address=ray_cluster, overrides=("run.generate.batch_size=1",))


def test_every_good_line_becomes_an_image_and_a_row_of_the_index(first: GenerationSummary, out: Path) -> None:
    assert (first.requests, first.images, first.made, first.failed) == (5, 3, 3, 2)
    index = index_of(out)
    assert [row["line"] for row in index] == [1, 3, 5]
    assert [row["seed"] for row in index] == [1, 5, 5]
    assert [row["id"] for row in index] == [None, "b", None]
    assert json.loads(index[0]["extra"]) == {"tag": "one", "note": "\ud800"}
    assert json.loads(index[2]["extra"]) == {"tag": {"nested": [1]}}
    sizes = []
    for row in index:
        with Image.open(out / row["file"]) as image:
            image.load()
            sizes.append(image.size)
    assert sizes == [(64, 64), (96, 64), (64, 64)]
    assert {path.name for path in (out / "images").iterdir()} == {Path(row["file"]).name for row in index}


def test_bad_lines_are_reported_with_their_numbers(first: GenerationSummary, out: Path, requests: str) -> None:
    errors = rows(out / "errors.jsonl")
    assert [(error["source"], error["line"]) for error in errors] == [(requests, 2), (requests, 4)]
    assert "not JSON" in errors[0]["error"]
    assert errors[1]["error"] == "unknown key 'sede'; did you mean 'seed'?"


def test_an_image_says_how_it_was_made(first: GenerationSummary, out: Path) -> None:
    row = index_of(out)[2]
    with Image.open(out / row["file"]) as image:
        chunks = dict(image.info)
    assert chunks["prompt"] == "ein grüner Kreis 圆"
    assert json.loads(chunks["x2i"]) == {"seed": 5, "model": row["model"], **row["settings"]}


def test_the_contact_sheet_shows_the_images(first: GenerationSummary, out: Path) -> None:
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 3 * 128


def test_running_again_makes_nothing_and_needs_no_cluster(
    first: GenerationSummary, model_folder: Path, requests: str, out: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()}
    index = (out / "index.parquet").read_bytes()
    again = generate(model_folder, requests, out=out, address=NO_CLUSTER)
    assert (again.images, again.made, again.failed) == (3, 0, 2)
    assert {path: path.stat().st_mtime_ns for path in (out / "images").iterdir()} == before
    assert (out / "index.parquet").read_bytes() == index


@pytest.mark.slow
def test_a_lost_image_is_made_again_byte_for_byte_and_no_other(
    first: GenerationSummary, model_folder: Path, requests: str, out: Path, ray_cluster: str
) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (out / "images").iterdir()}
    lost = Path(index_of(out)[1]["file"]).name
    (out / "images" / lost).unlink()
    again = generate(model_folder, requests, out=out, address=ray_cluster, overrides=("run.generate.batch_size=1",))
    assert (again.images, again.made) == (3, 1)
    for name, (data, modified) in before.items():
        assert (out / "images" / name).read_bytes() == data
        assert ((out / "images" / name).stat().st_mtime_ns == modified) == (name != lost)


@pytest.mark.slow
def test_other_settings_make_other_images_beside_and_a_failed_line_ends_the_command_with_2(
    first: GenerationSummary,
    model_folder: Path,
    tmp_path: Path,
    out: Path,
    ray_cluster: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = json.dumps({"prompt": "word " * 300})
    requests = write(tmp_path / "requests.jsonl", LINES[0], long, LINES[2])
    options = ["--requests", requests, "--out", str(out), "--set", "generate.guidance=1", "--json"]
    argv = ["x2i-platform", "generate", str(model_folder), *options, "--address", ray_cluster]
    monkeypatch.setattr(sys, "argv", argv)
    old = {row["file"] for row in index_of(out)}
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert f"error: 1 of 3 requests failed; see {out}/errors.jsonl" in printed.err.splitlines()
    [line] = printed.out.splitlines()
    assert {key: json.loads(line)[key] for key in ("requests", "images", "made", "failed")} == {
        **{"requests": 3, "images": 2},
        **{"made": 2, "failed": 1},
    }
    [error] = rows(out / "errors.jsonl")
    assert error["line"] == 2
    assert "at most 128 fit" in error["error"]
    new = {row["file"] for row in index_of(out)}
    assert not new & old
    assert {f"images/{path.name}" for path in (out / "images").iterdir()} == new | old


def test_nothing_but_bad_lines_is_reported_without_a_cluster(model_folder: Path, tmp_path: Path) -> None:
    requests = write(tmp_path / "requests.jsonl", "[]", "{}")
    report = generate(model_folder, requests, out=tmp_path / "out", address=NO_CLUSTER)
    assert (report.requests, report.images, report.failed) == (2, 0, 2)
    assert [row["line"] for row in rows(tmp_path / "out" / "errors.jsonl")] == [1, 2]
    assert index_of(tmp_path / "out") == []


def test_a_model_that_does_not_fit_stops_the_run_with_its_own_error(
    make_model: Callable[..., Path], mini_recipe: Recipe, requests: str, tmp_path: Path, ray_cluster: str
) -> None:
    with pytest.raises(WeightsError, match="AlignNet reads 9 layers of width 64"):
        generate(make_model(mini_recipe, num_layers=9), requests, out=tmp_path / "out", address=ray_cluster)


def test_mistakes_are_found_before_a_cluster_is_asked_for(model_folder: Path, requests: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'gidance' in generate; did you mean 'guidance'"):
        generate(model_folder, requests, out=tmp_path, address=NO_CLUSTER, overrides=("generate.gidance=1",))
    with pytest.raises(InputError, match="can't be read"):
        generate(model_folder, str(tmp_path / "none.jsonl"), out=tmp_path, address=NO_CLUSTER)
    with pytest.raises(WeightsError, match=r"has no recipe\.json"):
        generate(tmp_path, requests, out=tmp_path, address=NO_CLUSTER)


def test_the_padding_enters_the_name_of_an_image(
    first: GenerationSummary, model_folder: Path, requests: str, out: Path
) -> None:
    with pytest.raises(ClusterError, match=NO_CLUSTER):  # there is something to make
        generate(model_folder, requests, out=out, address=NO_CLUSTER, overrides=("alignnet.padding=none",))


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        (WeightsError("a broken model"), "WeightsError: a broken model"),
        (torch.AcceleratorError("the device is lost"), "ClusterError: AcceleratorError the device is lost"),
        (None, "StoreError: can't write "),
    ],
)
def test_a_fault_that_is_no_lines_stops_the_run(
    tmp_path: Path,
    model_folder: Path,
    mini_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception | None,
    refusal: str,
) -> None:
    def made(_: object, requests: list[object]) -> list[Generated]:
        if fault:
            raise fault
        return [Generated(Image.new("RGB", (16, 16))) for _ in requests]

    monkeypatch.setattr(Generator, "generate", made)
    (tmp_path / "images").touch()  # a disk that takes nothing more looks the same
    actor = GeneratorActor(str(model_folder), recipe=mini_recipe.model_dump(mode="json"), out=str(tmp_path))
    row = {"line": 1, "prompt": "a", "seed": 1, "file": "images/1.png", "facts": {}, "messages": [], "media": []}
    batch = {"row": [json.dumps({**row, "settings": mini_recipe.generate.model_dump()})] * 2}
    for _ in range(2):  # and it is not tried again
        assert all(each.startswith(refusal) for each in actor(batch)["refusal"])
        assert actor(batch)["error"] == ["", ""]


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


@pytest.mark.slow
def test_killed_and_run_again_every_request_is_in_the_index_once(
    model_folder: Path, tmp_path: Path, ray_cluster: str
) -> None:
    pq.write_table(pa.table({"prompt": [f"a {n}" for n in range(40)]}), tmp_path / "requests.parquet")
    command = [
        *(sys.executable, "-m", "cli", "generate", str(model_folder)),
        *("--requests", str(tmp_path / "requests.parquet"), "--out", str(tmp_path / "out")),
        *("--set", "run.generate.batch_size=1", "--address", ray_cluster, "--json"),
    ]
    images = tmp_path / "out" / "images"
    before = run_until_images(command, images, count=3)
    assert 3 <= len(before) < 40
    assert not (tmp_path / "out" / "index.parquet").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    assert json.loads(done.stdout)["made"] == 40 - len(before)
    assert before.items() <= written(images).items()
    index = index_of(tmp_path / "out")
    assert [(row["line"], row["prompt"]) for row in index] == [(n + 1, f"a {n}") for n in range(40)]
    assert sorted(row["file"] for row in index) == sorted(f"images/{path.name}" for path in images.iterdir())
    for row in index:
        with Image.open(tmp_path / "out" / row["file"]) as image:
            image.load()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "batch"])
def test_from_a_bucket_to_a_bucket(model_folder: Path, tmp_path: Path, s3_bucket: str, form: str) -> None:
    files = Files(f"{s3_bucket}/work")
    if form == "parquet":
        for name, words in (("b", ["c", " "]), ("a", ["a", "b"])):
            buffer = io.BytesIO()
            pq.write_table(pa.table({"prompt": words}), buffer)
            files.publish(f"requests/{name}.parquet", buffer.getvalue())
        requests = f"{s3_bucket}/work/requests/"
    else:
        keys = {"method": "POST", "url": "/v1/images/generations"}
        lines = [json.dumps({"custom_id": one, "body": {"prompt": one}, **keys}) for one in ("a", "b", "c", " ")]
        files.publish("requests.jsonl", "\n".join(lines).encode())
        requests = f"{s3_bucket}/work/requests.jsonl"
    options = ("--requests", requests, "--out", f"{s3_bucket}/work/out", "--json")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    for made in (3, 0):
        done = subprocess.run(
            [sys.executable, "-m", "cli", "generate", str(model_folder), *options],
            capture_output=True,
            text=True,
            timeout=200,
            env=environment,
        )
        assert done.returncode == 2, done.stderr  # one request is blank
        assert json.loads(done.stdout)["made"] == made
    out = Files(f"{s3_bucket}/work/out")
    index = pq.read_table(io.BytesIO(out.read("index.parquet"))).to_pylist()
    assert [row["prompt"] for row in index] == ["a", "b", "c"]
    assert sorted(row["file"] for row in index) == out.names("images")
    [error] = [json.loads(line) for line in out.read("errors.jsonl").splitlines()]
    if form == "batch":
        assert error["custom_id"] == " "
        output = [json.loads(line) for line in out.read("output.jsonl").splitlines()]
        assert [line["custom_id"] for line in output] == ["a", "b", "c"]
    else:
        assert error["line"] == 4
