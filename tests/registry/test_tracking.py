import json
import shutil
import sqlite3
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from x2i_platform.errors import RegistryError
from x2i_platform.registry.tracking import (
    RunInfo,
    RunLogger,
    TrainingData,
    finish,
    source_tags,
    start_or_resume,
)

DATA = TrainingData(name="store", digest="5" * 64, source="s3://bucket/store")


def start(uri: str, *, key: str = "k1", **changes: Any) -> RunInfo:
    settings: dict[str, Any] = {
        "experiment": "distill",
        "run_name": "mini",
        "params": {"train": {"lr": 1e-4}},
        "tags": {"who": "me"},
    }
    return start_or_resume(tracking_uri=uri, key=key, **(settings | changes))


def steps(info: RunInfo, name: str) -> list[int]:
    return [point.step for point in MlflowClient(info.tracking_uri).get_metric_history(info.run_id, name)]


def test_a_run_holds_its_parameters_lineage_and_tags(tracking_uri: str, tmp_path: Path) -> None:
    params = {"train": {"lr": 1e-4, "betas": (0.9, 0.999)}, "text": "x" * 7000, **{f"p{k}": k for k in range(150)}}
    info = start(tracking_uri, params=params, data=DATA)
    start(tracking_uri, params=params, data=DATA)
    run = MlflowClient(tracking_uri).get_run(info.run_id)
    assert run.data.params["train.lr"] == "0.0001"
    assert run.data.params["train.betas"] == "(0.9, 0.999)"
    assert len(run.data.params["text"]) == 6000
    assert len(run.data.params) == 153
    assert run.data.tags["x2i.manifest"] == DATA.digest
    assert run.data.tags["who"] == "me"
    assert "x2i.changed_params" not in run.data.tags
    (lineage,) = run.inputs.dataset_inputs
    assert (lineage.dataset.name, lineage.dataset.source_type) == ("store", "s3")
    assert DATA.digest.startswith(lineage.dataset.digest)
    assert json.loads(lineage.dataset.source) == {"uri": DATA.source}
    assert run.info.artifact_uri.startswith(str(tmp_path / "my runs #1 ü" / "mlartifacts"))


def test_no_parameter_tag_or_source_holds_a_password(tracking_uri: str) -> None:
    url = "sftp://me:hunter2@host/store"
    info = start(tracking_uri, params={"a": {"b": url}}, tags={"c": url}, data=TrainingData("store", "5" * 64, url))
    with sqlite3.connect(tracking_uri.removeprefix("sqlite:///")) as database:
        dump = "\n".join(database.iterdump())
    assert dump.count("sftp://***@host/store") == 3
    assert "hunter2" not in dump
    assert "sqlite" not in repr(info)


def test_only_a_finished_run_is_not_resumed(tracking_uri: str) -> None:
    first = start(tracking_uri)
    for status in ("FAILED", "KILLED"):
        finish(first, status=status)
        assert start(tracking_uri) == first
        assert MlflowClient(tracking_uri).get_run(first.run_id).info.status == "RUNNING"
    assert start(tracking_uri, key="k2").run_id != first.run_id
    assert start(tracking_uri, experiment="other").run_id != first.run_id
    finish(first)
    assert start(tracking_uri).run_id != first.run_id


def test_a_resumed_run_keeps_its_first_parameters_and_says_what_changed(tracking_uri: str) -> None:
    info = start(tracking_uri, params={"run": {"workers": 1}, "lr": 1})
    assert start(tracking_uri, params={"run": {"workers": 4}, "lr": 1, "added": True}) == info
    data = MlflowClient(tracking_uri).get_run(info.run_id).data
    assert data.params == {"run.workers": "1", "lr": "1", "added": "True"}
    assert data.tags["x2i.changed_params"] == "run.workers: 1 -> 4"


def test_no_metric_is_logged_twice_for_a_step_across_restarts(tracking_uri: str) -> None:
    info = start(tracking_uri)
    with pytest.raises(KeyboardInterrupt), RunLogger(info) as log:
        for step in range(8):
            log.metrics({"loss": 1 / (step + 1), "lr": 0.1}, step=step)
        log.metrics({"loss": 0.0}, step=7)
        raise KeyboardInterrupt
    start(tracking_uri)
    with RunLogger(info) as log:
        for step in range(5, 12):
            log.metrics({"loss": 2.0, "kl": 1.0}, step=step)
    assert steps(info, "loss") == list(range(12))
    assert steps(info, "lr") == list(range(8))
    assert steps(info, "kl") == list(range(5, 12))
    history = MlflowClient(tracking_uri).get_metric_history(info.run_id, "loss")
    assert [point.value for point in history][7:9] == [1 / 8, 2.0]


def test_many_metrics_are_sent_without_waiting_for_the_end(tracking_uri: str) -> None:
    info = start(tracking_uri)
    with RunLogger(info, flush_every_s=3600) as log:
        for step in range(1001):
            log.metrics({"loss": float("nan") if step == 3 else 1.0}, step=step)
        assert steps(info, "loss") == list(range(1000))
        log.flush()
        assert len(steps(info, "loss")) == 1001


def test_metrics_survive_a_store_that_refuses_them_for_a_while(
    tracking_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    info, client = start(tracking_uri), MlflowClient(tracking_uri)
    with RunLogger(info, flush_every_s=0) as log:
        client.delete_run(info.run_id)
        log.metrics({"loss": 1.0}, step=0)
        assert "1 metric values wait for the next try" in caplog.text
        client.restore_run(info.run_id)
        log.metrics({"loss": 2.0}, step=1)
    assert steps(info, "loss") == [0, 1]


def test_what_can_not_be_sent_at_the_end_is_an_error(tracking_uri: str) -> None:
    info, client = start(tracking_uri), MlflowClient(tracking_uri)
    with pytest.raises(RegistryError, match="metrics can't be logged"), RunLogger(info) as log:
        log.metrics({"loss": 1.0}, step=0)
        client.delete_run(info.run_id)


def test_system_metrics_are_sampled_resumed_and_stopped(tracking_uri: str) -> None:
    info, name = start(tracking_uri), "system/cpu_utilization_percentage"
    for _ in range(2):
        with RunLogger(info, sample_every_s=0.05):
            time.sleep(1)
        assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    logged = steps(info, name)
    assert len(logged) >= 2
    assert len(set(logged)) == len(logged)


def test_artifacts_lie_in_their_folder(tracking_uri: str, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "a.txt").write_text("a")
    info = start(tracking_uri)
    with RunLogger(info) as log:
        log.artifact(tmp_path / "report", folder="evaluation")
        log.artifact(tmp_path / "report" / "a.txt")
        with pytest.raises(RegistryError, match="missing"):
            log.artifact(tmp_path / "missing")
    client = MlflowClient(tracking_uri)
    assert [entry.path for entry in client.list_artifacts(info.run_id)] == ["a.txt", "evaluation"]
    assert [entry.path for entry in client.list_artifacts(info.run_id, "evaluation")] == ["evaluation/a.txt"]


def test_artifacts_may_be_kept_elsewhere(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "elsewhere"))
    info = start(tracking_uri)
    with RunLogger(info) as log:
        log.artifact(Path(__file__))
    assert [path.name for path in (tmp_path / "elsewhere").rglob("*.py")] == [Path(__file__).name]


def test_a_deleted_experiment_is_named(tracking_uri: str) -> None:
    info, client = start(tracking_uri), MlflowClient(tracking_uri)
    client.delete_experiment(client.get_run(info.run_id).info.experiment_id)
    with pytest.raises(RegistryError, match="'distill' was deleted"):
        start(tracking_uri)


def test_an_unknown_run_is_a_registry_error(tracking_uri: str) -> None:
    gone = RunInfo(run_id="0" * 32, experiment="distill", tracking_uri=tracking_uri)
    with pytest.raises(RegistryError, match="0000"):
        finish(gone)
    with pytest.raises(RegistryError, match="0000"), RunLogger(gone):
        pass


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_known_only_for_tracked_sources(tmp_path: Path) -> Any:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("a = 1\n")
    (tmp_path / "site-packages").mkdir()
    git("init")
    git("add", "package/a.py")
    git("commit", "-m", "first")
    tags = {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "x2i.git.dirty": "false"}
    assert source_tags(tmp_path / "package") == tags
    (tmp_path / "package" / "a.py").write_text("a = 2\n")
    assert source_tags(tmp_path / "package") == tags | {"x2i.git.dirty": "true"}
    assert source_tags(tmp_path / "site-packages") == {}
