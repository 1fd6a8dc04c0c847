"""Training on a real Ray Train: registered once, continued after a kill, one MLflow run, every step logged once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from pipelines import RECIPES, train
from tests.mlflow_server import mlflow_server
from tests.random_models import CAPTIONS, RANDOM
from x2i_platform import fingerprint
from x2i_platform.errors import StoreError, TrainingError
from x2i_platform.features.schema import FEATURE_TABLES
from x2i_platform.features.store import FeatureStore
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.precompute.captions import Record
from x2i_platform.precompute.shards import append_shards
from x2i_platform.precompute.stages import build_stage
from x2i_platform.progress import Metrics
from x2i_platform.recipes import load, override
from x2i_platform.registry.lineage import sheet
from x2i_platform.registry.models import resolve
from x2i_platform.training.job import describe, prepare

__all__ = ["mlflow_server"]

STORED = (
    "targets.taps=[double.0.image, single.0]",
    "teacher.text_tokens=64",
    "mllm.max_tokens=64",
    "store.samples_per_shard=16",
)
QUICK = (*STORED, "train.steps=12", "train.batch_size=4", "run.train.checkpoint_every=4", "run.train.log_every=2")

WARM = "train.warm_start_steps=4"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of 32 captions, filled without Ray."""
    folder = str(tmp_path_factory.mktemp("features") / "store")
    recipe = load(RANDOM, shipped=RECIPES, overrides=STORED)
    captions = CAPTIONS[:32]
    features = FeatureStore.create(folder, fingerprint=fingerprint.features(recipe))
    append_shards(features, (Record("captions", i, c) for i, c in enumerate(captions, start=1)), samples_per_shard=16)
    for table in FEATURE_TABLES:
        stage = build_stage(table, recipe=recipe, store_url=folder)
        for shard in (0, 1):
            assert stage.run(shard)
    return folder


def silent(done: int, total: int, metrics: Metrics | None = None, /) -> None:
    """No progress bar."""


def steps_logged(folder: Path, run_id: str, metric: str) -> list[int]:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return [point.step for point in client.get_metric_history(run_id, metric)]


@pytest.mark.slow
def test_a_training_is_registered_found_again_and_better_than_its_beginning(
    tmp_path: Path, store: str, ray_cluster: str
) -> None:
    recipe = load(RANDOM, shipped=RECIPES, overrides=[*QUICK, "run.train.workers=2", "train.ema=0.5", WARM])
    job = prepare(recipe, store=store)
    assert (describe(job)["warm_start_steps"], describe(job)["steps"]) == (4, 12)
    destination = train.Destination("tiny", f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "runs"))
    seen: list[tuple[int, int]] = []
    report = train.run(job, destination, address=ray_cluster, on_progress=lambda *now: seen.append(now[:2]))

    assert report.model == "models:/tiny/1"
    assert seen == sorted(seen), "the bar never goes back"
    assert seen[-1] == (16, 16)
    assert steps_logged(tmp_path, report.run_id, "warm_start/loss") == [2, 4]
    assert steps_logged(tmp_path, report.run_id, "loss") == [2, 4, 6, 8, 10, 12]
    assert steps_logged(tmp_path, report.run_id, "validation_kl_per_token") == [0, 4, 8, 12]
    folder = resolve("models:/tiny@candidate", tracking_uri=destination.tracking_uri)
    names = {path.name for path in folder.iterdir()}
    assert names == {"alignnet.safetensors", "config.json", "recipe.json", "README.md", "MLmodel"}
    assert "| Warm start | 4 steps" in (folder / "README.md").read_text(encoding="utf-8")

    client = MlflowClient(destination.tracking_uri)
    before, *_, after = client.get_metric_history(report.run_id, "validation_kl_per_token")
    assert after.value < before.value
    run = client.get_run(report.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["x2i.manifest"] == job.manifest_digest
    assert run.data.params["alignnet.fusion"] == "conv"
    assert run.inputs.dataset_inputs
    known = sheet("tiny", tracking_uri=destination.tracking_uri)
    assert known.teacher.identity == FeatureStore.open(store).fingerprint["text"]["teacher"]
    assert (known.lineage.store, known.lineage.store_manifest) == (store, job.manifest_digest)
    assert known.lineage.captions.trained_on == str(job.train_samples)
    assert isinstance(known.lineage.captions.files, dict)
    assert sum(known.lineage.captions.files.values()) == job.train_samples + job.held_out_samples

    again = train.run(job, destination, address=ray_cluster, on_progress=silent)
    assert again.already_trained
    assert again.model == report.model

    slower = prepare(override(recipe, ["generate.num_inference_steps=9"]), store=store)
    assert slower.key == job.key
    changed = train.run(slower, destination, address=ray_cluster, on_progress=silent)
    assert (changed.already_trained, changed.model) == (True, "models:/tiny/2")
    folders = [resolve(uri, tracking_uri=destination.tracking_uri) for uri in (report.model, "models:/tiny/latest")]
    assert [read_recipe(folder).generate.num_inference_steps for folder in folders][1] == 9
    assert len({(folder / "alignnet.safetensors").read_bytes() for folder in folders}) == 1
    back = train.run(job, destination, address=ray_cluster, on_progress=silent)
    assert back.model == report.model, "what was registered once is not registered again"


def test_a_store_that_cannot_be_trained_on_is_refused(tmp_path: Path, store: str) -> None:
    with pytest.raises(StoreError, match=r"teacher\.text_tokens|text_tokens: 64 in the store, 32 asked for"):
        prepare(
            load(RANDOM, shipped=RECIPES, overrides=[*QUICK, "teacher.text_tokens=32", "mllm.max_tokens=32"]),
            store=store,
        )
    with pytest.raises(StoreError, match="holds no feature store"):
        prepare(load(RANDOM, shipped=RECIPES), store=str(tmp_path))
    recipe = load(RANDOM, shipped=RECIPES)
    FeatureStore.create(str(tmp_path / "empty"), fingerprint=fingerprint.features(recipe))
    with pytest.raises(TrainingError, match="no complete shard"):
        prepare(recipe, store=str(tmp_path / "empty"))


@pytest.mark.slow
def test_a_loss_that_explodes_ends_the_training_at_once(tmp_path: Path, store: str, ray_cluster: str) -> None:
    explosive = [*QUICK, "train.lr=1e30", "train.max_grad_norm=1e30", "train.warmup_steps=0"]
    job = prepare(load(RANDOM, shipped=RECIPES, overrides=explosive), store=store)
    destination = train.Destination("tiny", f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "runs"))
    with pytest.raises(TrainingError, match=r"step \d: (loss|gradient norm).* is (inf|nan); nothing was updated"):
        train.run(job, destination, address=ray_cluster, on_progress=silent)
    client = MlflowClient(destination.tracking_uri)
    experiment = client.get_experiment_by_name(train.EXPERIMENT)
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    # It was begun once: workers that begin validate before their first step.
    assert steps_logged(tmp_path, run.info.run_id, "validation_kl_per_token") == [0]


def test_a_store_that_lost_a_commit_record_is_refused(tmp_path: Path, store: str) -> None:
    shutil.copytree(store, tmp_path / "store")
    next((tmp_path / "store" / "commits" / "targets").glob("*.json")).unlink()
    with pytest.raises(StoreError, match=r"lacks commit records of shards \d \(targets\); rerun the same precompute"):
        prepare(load(RANDOM, shipped=RECIPES, overrides=QUICK), store=str(tmp_path / "store"))


@pytest.mark.slow
def test_the_tracking_password_is_in_no_report_and_no_file(
    tmp_path: Path, store: str, ray_cluster: str, mlflow_server: str
) -> None:
    job = prepare(load(RANDOM, shipped=RECIPES, overrides=QUICK), store=store)
    uri = mlflow_server.replace("//", "//me:hunter2%2F@")
    destination = train.Destination("tiny", uri, str(tmp_path / "runs"))
    report = train.run(job, destination, address=ray_cluster, on_progress=silent)
    assert report.tracking_uri == mlflow_server.replace("//", "//***@")

    result = tmp_path / "runs" / job.run_name / train.RESULT_FILE
    assert json.loads(result.read_text()) == asdict(report)
    result.write_text(json.dumps({**asdict(report), "tracking_uri": uri}))  # as it was written once
    again = train.run(job, destination, address=ray_cluster, on_progress=silent)
    assert (again.already_trained, again.tracking_uri) == (True, report.tracking_uri)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"hunter2" not in path.read_bytes(), path


LONG = (
    *(*QUICK, "train.warm_start_steps=10", "train.steps=40"),
    *("run.train.checkpoint_every=5", "run.train.log_every=1", "run.train.workers=2"),
)


def start(folder: Path, store: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from cli import main; main()", "train", RANDOM, "--json", "--store", store]
    command += ["--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}", "--runs", str(folder / "runs")]
    command += [part for override in LONG for part in ("--set", override)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def wait_for(condition: Callable[[], bool], *, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 250
    while not condition():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def checkpoints(folder: Path) -> int:
    return len(list((folder / "runs").glob("random-*/checkpoint_*/state.json")))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_worker_and_a_killed_driver_continue_in_one_run(tmp_path: Path, store: str) -> None:
    first = start(tmp_path, store)
    wait_for(lambda: checkpoints(tmp_path) >= 1, run=first)
    workers = [
        p for p in psutil.Process(first.pid).children(recursive=True) if "RayTrainWorker" in "".join(p.cmdline())
    ]
    assert len(workers) == 2
    workers[0].kill()
    wait_for(lambda: checkpoints(tmp_path) >= 3, run=first)
    cluster = [child for child in psutil.Process(first.pid).children(recursive=True) if "Agent" not in child.name()]
    first.send_signal(signal.SIGKILL)
    first.wait()
    psutil.wait_procs(cluster, timeout=60)

    second = start(tmp_path, store)
    output, errors = second.communicate(timeout=400)
    assert second.returncode == 0, errors.decode()[-3000:]
    report = json.loads(output)
    assert report["model"] == "models:/random/1"
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(train.EXPERIMENT)
    assert experiment is not None
    assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [report["run_id"]]
    assert Counter(steps_logged(tmp_path, report["run_id"], "warm_start/loss")) == Counter(range(1, 11))
    assert Counter(steps_logged(tmp_path, report["run_id"], "loss")) == Counter(range(1, 41))
