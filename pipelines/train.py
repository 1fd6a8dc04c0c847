"""feature store → AlignNet → registry, on Ray Train with DeepSpeed.

One training is one fingerprint: its Ray Train run, its checkpoints and its MLflow run are found again by it, so the
same command continues a training that was killed, and returns the registered version of one that is done.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from pipelines.ray_cluster.events import follow
from pipelines.ray_cluster.process_group import GroupConfig
from pipelines.ray_cluster.session import Demand, ray_session
from x2i_platform.config import Recipe
from x2i_platform.errors import RegistryError, StoreError, TrainingError, X2IError, from_text, redacted, to_text
from x2i_platform.features.files import Files
from x2i_platform.features.schema import MLLM, TEXT
from x2i_platform.features.store import FeatureStore
from x2i_platform.models.model_folder import CONFIG_FILE, WEIGHTS_FILE, write_recipe
from x2i_platform.progress import Metrics, Progress
from x2i_platform.registry import tracking
from x2i_platform.registry.card import TrainingFacts, model_card
from x2i_platform.registry.lineage import version_tags
from x2i_platform.registry.models import ModelVersion, list_models, register, require_name, resolve
from x2i_platform.training.data import count_sources
from x2i_platform.training.job import Job
from x2i_platform.training.lock import alone

EXPERIMENT = "x2i-distill"
RESULT_FILE = "result.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Destination:
    """Where a training stores its results."""

    name: str
    tracking_uri: str = field(repr=False)
    runs: str
    """Folder or URL for checkpoints, which every worker can reach."""

    def __post_init__(self) -> None:
        """Raises RegistryError for a name that nothing can be registered under: better now than after the training."""
        require_name(self.name)


@dataclass(frozen=True)
class TrainingSummary:
    """The result of a training."""

    model: str
    version: int
    alias: str
    run_id: str
    tracking_uri: str
    checkpoint: str
    steps: int
    metrics: Metrics
    seconds: float
    already_trained: bool = False


def run(job: Job, destination: Destination, *, address: str | None, on_progress: Progress) -> TrainingSummary:
    """Train, or continue training, and register the result. Waits while the same training runs elsewhere."""
    runs = Files(destination.runs).address
    with alone(job.run_name, runs=runs, database=tracking.sqlite_file(destination.tracking_uri)):
        return _run(job, destination, runs=runs, address=address, on_progress=on_progress)


def _run(
    job: Job, destination: Destination, *, runs: str, address: str | None, on_progress: Progress
) -> TrainingSummary:
    started = time.monotonic()
    folder = Files(f"{runs}/{job.run_name}")
    if done := _earlier_result(folder, destination):
        return _with_settings_of_now(done, job, folder=folder, destination=destination)
    info = _open_run(job, destination)
    try:
        with ray_session(address, demand=_demand(job.recipe)):
            result = _fit(job, info=info, runs=runs, on_progress=on_progress)
            summary = _register(job, result, destination=destination, info=info, seconds=time.monotonic() - started)
    except KeyboardInterrupt:
        tracking.finish(info, status="KILLED")
        raise
    except X2IError:
        tracking.finish(info, status="FAILED")
        raise
    _keep(summary, folder)
    tracking.finish(info)
    return summary


def _keep(summary: TrainingSummary, folder: Files) -> None:
    folder.publish(RESULT_FILE, json.dumps(asdict(summary), indent=1).encode())


def _earlier_result(folder: Files, destination: Destination) -> TrainingSummary | None:
    """The summary of a finished training whose version is still registered at this destination; otherwise None."""
    if not folder.exists(RESULT_FILE):
        return None
    try:
        stored = TrainingSummary(**json.loads(folder.read(RESULT_FILE)))
    except (ValueError, TypeError):  # of another version, or damaged: the last checkpoint gives it again
        return None
    summary = replace(stored, tracking_uri=redacted(stored.tracking_uri))
    if summary != stored:  # passwords were kept once
        _keep(summary, folder)
    registered = {version.uri for model in list_models(destination.tracking_uri) for version in model.versions}
    same_place = summary.tracking_uri == redacted(destination.tracking_uri) and summary.model in registered
    named = summary.model == f"models:/{destination.name}/{summary.version}"
    return replace(summary, already_trained=True) if same_place and named else None


def _open_run(job: Job, destination: Destination) -> tracking.RunInfo:
    return tracking.start_or_resume(
        tracking_uri=destination.tracking_uri,
        experiment=EXPERIMENT,
        run_name=job.run_name,
        key=job.key,
        params={
            **job.recipe.model_dump(mode="json"),
            "train_samples": job.train_samples,
            "held_out_samples": job.held_out_samples,
        },
        tags={"x2i.recipe": job.recipe.name},
        data=tracking.TrainingData(Path(job.store).name, job.manifest_digest, job.store),
    )


def _fit(job: Job, *, info: tracking.RunInfo, runs: str, on_progress: Progress) -> ray.train.Result:
    resources = job.recipe.run.train
    per_worker = {"CPU": resources.num_cpus, **({"GPU": resources.num_gpus} if resources.num_gpus else {})}
    events: Queue[Any] = Queue(actor_options={"num_cpus": 0})
    faults: Queue[str] = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "info": info, "events": events, "faults": faults},
        torch_config=GroupConfig(backend="nccl" if resources.num_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=resources.workers, use_gpu=resources.num_gpus > 0, resources_per_worker=per_worker
        ),
        run_config=RunConfig(
            name=job.run_name,
            storage_path=runs,
            failure_config=FailureConfig(max_failures=resources.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=resources.keep_checkpoints),
        ),
    )
    steps = job.recipe.train.warm_start_steps + job.recipe.train.steps
    with ExitStack() as closing:
        closing.callback(follow(events, steps=steps, on_progress=on_progress))
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise _training_error(error) from None
        if not faults.empty():
            raise from_text(faults.get())
        return result


def train_worker(config: dict[str, Any]) -> None:
    """The train function of each Ray Train worker.

    Ray restarts workers after any error. One of ours would only occur again, so restarted workers that find one end at
    once. Only a StoreError or a RegistryError may be over by then: a disk or a network was unavailable.
    """
    faults: Queue[str] = config.pop("faults")
    if not faults.empty():
        return
    from pipelines.ray_cluster.train_worker import work  # loads diffusers and DeepSpeed, which only workers need

    try:
        work(**config)
    except (StoreError, RegistryError):
        raise
    except X2IError as error:
        faults.put(to_text(error))
        raise


def _with_settings_of_now(
    summary: TrainingSummary, job: Job, *, folder: Files, destination: Destination
) -> TrainingSummary:
    """The summary of a finished training. If the recipe's generation settings have changed, another version is
    registered.
    """
    trained = resolve(summary.model, tracking_uri=destination.tracking_uri)
    info = tracking.RunInfo(summary.run_id, EXPERIMENT, destination.tracking_uri)
    version = _publish(
        job, trained, metrics=summary.metrics, destination=destination, info=info, seconds=summary.seconds
    )
    if version.version == summary.version:
        return summary
    log.warning("the training is done; %s is its weights with the settings that the recipe has now", version.uri)
    changed = replace(summary, model=version.uri, version=version.version)
    _keep(replace(changed, already_trained=False), folder)
    return changed


def _register(
    job: Job, result: ray.train.Result, *, destination: Destination, info: tracking.RunInfo, seconds: float
) -> TrainingSummary:
    if result.checkpoint is None:
        raise TrainingError(f"training '{job.run_name}' ended without a checkpoint")
    metrics = {key: float(value) for key, value in (result.metrics or {}).items() if key != "step"}
    with result.checkpoint.as_directory() as folder:
        version = _publish(
            job, Path(folder), metrics=metrics, destination=destination, info=info, seconds=round(seconds, 1)
        )
    return TrainingSummary(
        model=version.uri,
        version=version.version,
        alias=f"models:/{version.name}@candidate",
        run_id=info.run_id,
        tracking_uri=redacted(info.tracking_uri),
        checkpoint=result.checkpoint.path,
        steps=job.recipe.train.steps,
        metrics=metrics,
        seconds=round(seconds, 1),
    )


def _publish(
    job: Job,
    folder: Path,
    *,
    metrics: Metrics,
    destination: Destination,
    info: tracking.RunInfo,
    seconds: float,
) -> ModelVersion:
    """Register the AlignNet of a checkpoint, or of another version, with the current recipe."""
    store = FeatureStore.open(job.store)
    facts = TrainingFacts(
        teacher_identity=str(store.fingerprint[TEXT]["teacher"]),
        mllm_identity=str(store.fingerprint[MLLM]["mllm"]),
        manifest_digest=job.manifest_digest,
        captions=job.train_samples,
        figures={"Steps": job.recipe.train.steps, "Seconds": round(seconds), "Workers": job.recipe.run.train.workers},
        metrics=metrics,
        sources=count_sources(store, job.manifest),
    )
    card = model_card(job.recipe, name=destination.name, fingerprint=job.key, facts=facts)
    with tempfile.TemporaryDirectory() as temporary:
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            shutil.copy(folder / name, temporary)
        write_recipe(job.recipe, Path(temporary))
        return register(
            Path(temporary),
            name=destination.name,
            info=info,
            manifest_digest=job.manifest_digest,
            card=card,
            tags=version_tags(facts),
        )


def _demand(recipe: Recipe) -> Demand:
    resources = recipe.run.train
    return Demand(cpus=resources.workers * resources.num_cpus, gpus=resources.workers * resources.num_gpus)


def _training_error(error: Exception) -> X2IError:
    """Our own error if a worker raised one; otherwise one line about what stopped the workers."""
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, X2IError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    reason = " ".join(str(next(iter(failures.values()), error)).split())[-500:]
    return TrainingError(f"training stopped for good: {reason}")
