"""One MLflow run per training, however often it is restarted: parameters, data lineage, metrics, artifacts.

Invariants: the same key finds the same unfinished run; a metric has at most one value a step; all state is in MLflow,
so a `RunInfo` can be sent to any worker.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

import mlflow.entities as entities
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils import mlflow_tags

from x2i_platform.errors import RegistryError, raising, redacted
from x2i_platform.registry.connection import OUTSIDE, check_tracking_uri, connect, default_tracking_uri, sqlite_file

__all__ = [
    "RunInfo",
    "RunLogger",
    "TrainingData",
    "check_tracking_uri",
    "default_tracking_uri",
    "finish",
    "sqlite_file",
    "start_or_resume",
]

logger = logging.getLogger(__name__)

KEY_TAG = "x2i.key"
MANIFEST_TAG = "x2i.manifest"
CHANGED_TAG = "x2i.changed_params"
DIRTY_TAG = "x2i.git.dirty"
SYSTEM_PREFIX = "system/"

# MLflow's limits; it refuses or cuts what is longer.
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_DIGEST_LENGTH = 36
MAX_PARAMS_PER_BATCH = 100
MAX_METRICS_PER_BATCH = 1000


@dataclass(frozen=True)
class RunInfo:
    """Identifies a run; small and picklable. Ray's records of a job show the `repr`, so the URI is not in it."""

    run_id: str
    experiment: str
    tracking_uri: str = field(repr=False)


@dataclass(frozen=True)
class TrainingData:
    """The training data of a run: the feature store's name, the digest of its manifest, and its path or URI."""

    name: str
    digest: str
    source: str


def start_or_resume(
    *,
    tracking_uri: str,
    experiment: str,
    run_name: str,
    key: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    data: TrainingData | None = None,
) -> RunInfo:
    """The run of the training that `key` (a fingerprint) identifies: its unfinished one, else a new one.

    Nested `params` are logged as `a.b.c`. A resumed run keeps the value a parameter had first; the tag
    `x2i.changed_params` says what changed. Raises RegistryError.
    """
    client = connect(tracking_uri)
    with raising(RegistryError, f"run {run_name!r} of experiment {experiment!r}", OUTSIDE):
        experiment_id = _experiment(client, experiment)
        lineage = {} if data is None else {MANIFEST_TAG: data.digest}
        tags = {**tags, **lineage, **source_tags(Path(__file__).parent), KEY_TAG: key}
        run = _unfinished(client, experiment_id, key=key)
        if run is None:
            run = client.create_run(experiment_id, run_name=run_name, tags=tags)
        else:
            logger.info("resuming run %s of experiment %s", run.info.run_id, experiment)
            client.update_run(run.info.run_id, status="RUNNING")
        _log_settings(client, run, params=params, tags=tags)
        if data is not None:
            client.log_inputs(run.info.run_id, [_dataset_input(data)])
    return RunInfo(run_id=run.info.run_id, experiment=experiment, tracking_uri=client.tracking_uri)


def finish(info: RunInfo, *, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
    """Close the run. Only `FINISHED` is final: a failed or killed run is resumed by its key. Raises RegistryError."""
    with raising(RegistryError, f"run {info.run_id} can't be closed", OUTSIDE):
        connect(info.tracking_uri).set_terminated(info.run_id, status=status)


class RunLogger:
    """Writes to an open run, for one process (rank 0), and samples the machine's load as `system/…` metrics.

    Metrics are sent in batches; call `flush` before a checkpoint is saved, so that a restart from it leaves no gap. A
    step that the run already has, from before a restart, is dropped. GPU figures need the package nvidia-ml-py.
    """

    def __init__(self, info: RunInfo, *, flush_every_s: float = 5.0, sample_every_s: float = 10.0) -> None:
        self.info = info
        self._client = connect(info.tracking_uri)
        self._flush_every_s = flush_every_s
        self._sample_every_s = sample_every_s
        self._flushed_at = time.monotonic()
        self._pending: list[entities.Metric] = []
        self._last_steps: dict[str, int] = {}

    def __enter__(self) -> Self:
        with raising(RegistryError, f"run {self.info.run_id} can't be opened", OUTSIDE):
            self._last_steps = _last_steps(self._client, self.info.run_id)
            self._monitor = SystemMetricsMonitor(
                self.info.run_id,
                sampling_interval=self._sample_every_s,
                resume_logging=True,
                tracking_uri=self.info.tracking_uri,
            )
        self._monitor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._monitor.finish()
        try:
            self.flush()
        except RegistryError as lost:
            if error is None:
                raise
            logger.warning("%s; %d metric values are lost", lost, len(self._pending))

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        """Queue one value per name. A server that is unreachable for a while costs a warning, not the training."""
        now_ms = int(time.time() * 1000)
        for name, value in values.items():
            if step > self._last_steps.get(name, -1):
                self._last_steps[name] = step
                self._pending.append(entities.Metric(name, float(value), now_ms, step))
        due = time.monotonic() - self._flushed_at >= self._flush_every_s
        if due or len(self._pending) >= MAX_METRICS_PER_BATCH:
            try:
                self.flush()
            except RegistryError as error:
                self._flushed_at = time.monotonic()
                logger.warning("%s; %d metric values wait for the next try", error, len(self._pending))

    def artifact(self, path: Path, *, folder: str = "") -> None:
        """Upload a file, or a folder's content, into `folder` of the run's artifacts. Raises RegistryError."""
        with raising(RegistryError, f"{path} can't be logged to run {self.info.run_id}", OUTSIDE):
            log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            log(self.info.run_id, str(path), folder or None)

    def flush(self) -> None:
        """Send what is queued; values that can't be sent stay queued. Raises RegistryError."""
        with raising(RegistryError, f"metrics can't be logged to run {self.info.run_id}", OUTSIDE):
            while self._pending:
                batch = self._pending[:MAX_METRICS_PER_BATCH]
                self._client.log_batch(self.info.run_id, metrics=batch)
                del self._pending[: len(batch)]
        self._flushed_at = time.monotonic()


def source_tags(folder: Path) -> dict[str, str]:
    """MLflow's commit tag, and whether tracked files were edited, if `folder` is a git checkout's; else nothing.

    A package installed into an environment inside some other checkout is not tracked there, so it gets no tag.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit or not git("ls-files", "."):
        return {}
    dirty = git("status", "--porcelain", "--untracked-files=no")
    return {mlflow_tags.MLFLOW_GIT_COMMIT: commit, DIRTY_TAG: str(bool(dirty)).lower()}


def _experiment(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifact_location(client.tracking_uri)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # Another process was faster.
    if found is None or found.lifecycle_stage != "active":
        raise RegistryError(
            f"experiment {name!r} was deleted; restore it with `mlflow experiments restore` or use another name"
        )
    return str(found.experiment_id)


def _artifact_location(tracking_uri: str) -> str | None:
    """The artifact folder of a bare database, which has no server to decide; MLflow's default is the current folder."""
    if tracking_uri.startswith(("http", "databricks")):
        return None
    if root := os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        return root
    database = sqlite_file(tracking_uri)
    if database is None:
        raise RegistryError("a database as tracking URI needs MLFLOW_DEFAULT_ARTIFACT_ROOT, such as s3://bucket/mlflow")
    return str(database.parent / "mlartifacts")


def _unfinished(client: MlflowClient, experiment_id: str, *, key: str) -> entities.Run | None:
    runs = client.search_runs(
        [experiment_id],
        filter_string=f"tags.`{KEY_TAG}` = '{key}' and attributes.status != 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0] if runs else None


def _log_settings(
    client: MlflowClient, run: entities.Run, *, params: Mapping[str, object], tags: Mapping[str, str]
) -> None:
    known, wanted = run.data.params, dict(_flatten(params))
    changed = [f"{name}: {known[name]} -> {value}" for name, value in wanted.items() if known.get(name, value) != value]
    if changed:
        logger.warning("run %s keeps its first parameters; changed since: %s", run.info.run_id, "; ".join(changed))
        tags = {**tags, CHANGED_TAG: "; ".join(changed)}
    missing = [entities.Param(name, value) for name, value in wanted.items() if name not in known]
    for start in range(0, len(missing), MAX_PARAMS_PER_BATCH):
        client.log_batch(run.info.run_id, params=missing[start : start + MAX_PARAMS_PER_BATCH])
    client.log_batch(
        run.info.run_id,
        tags=[entities.RunTag(name, redacted(str(value))[:MAX_TAG_LENGTH]) for name, value in tags.items()],
    )


def _flatten(params: Mapping[str, object], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", redacted(str(value))[:MAX_PARAM_LENGTH]


def _dataset_input(data: TrainingData) -> entities.DatasetInput:
    """MLflow's columns hold 36 characters of a digest; the tag `x2i.manifest` holds it whole."""
    dataset = entities.Dataset(
        name=data.name,
        digest=data.digest[:MAX_DIGEST_LENGTH],
        source_type=urlsplit(data.source).scheme or "local",
        source=json.dumps({"uri": redacted(data.source)}),
    )
    return entities.DatasetInput(dataset, tags=[entities.InputTag(mlflow_tags.MLFLOW_DATASET_CONTEXT, "training")])


def _last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    names = [name for name in client.get_run(run_id).data.metrics if not name.startswith(SYSTEM_PREFIX)]
    return {name: max(point.step for point in client.get_metric_history(run_id, name)) for name in names}
