"""The whole command, in a process of its own: killed, and between buckets."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.pipelines.killed import run_until_images, written
from tests.pipelines.request_runs import index_of
from x2i_platform.features.files import Files


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
