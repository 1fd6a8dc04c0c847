"""Request files to images on a real Ray: what is missing is made, what is there is kept, what is wrong is reported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import cli
from pipelines.image_folder import GenerationSummary
from tests.pipelines.request_runs import NO_CLUSTER, generate, index_of, rows, write
from x2i_platform.config import Recipe
from x2i_platform.errors import ClusterError, ConfigError, InputError, WeightsError

LINES = (
    '{"prompt": "a red circle", "tag": "one", "note": "\\ud800"}',
    "not JSON",
    '{"prompt": "a blue square", "seed": 5, "width": 96, "id": "b"}',
    '{"prompt": "a", "sede": 5}',
    '{"prompt": "ein grüner Kreis 圆", "tag": {"nested": [1]}}',
)


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
