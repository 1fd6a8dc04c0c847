"""What runs on each Ray Train worker: the training loop between the feature store, Ray Train and MLflow."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train import Checkpoint
from ray.util.queue import Queue

from x2i_platform.features.store import FeatureStore
from x2i_platform.registry import tracking
from x2i_platform.training import checkpoint
from x2i_platform.training.data import split
from x2i_platform.training.job import Job
from x2i_platform.training.loop import Data, Hooks, Metrics, Trainer, Worker


def work(*, job: Job, info: tracking.RunInfo, events: Queue[Any]) -> None:
    """Train on this worker, from the run's last checkpoint on."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    store = FeatureStore.open(job.store)
    places = split(store, job.manifest, validation_share=job.recipe.train.validation_share)
    trainer = Trainer(
        job.recipe,
        dims=job.dims,
        worker=Worker(rank, world, str(ray.train.torch.get_device())),
        data=Data(job.store, job.manifest, *places),
    )
    if resume := ray.train.get_checkpoint():
        with resume.as_directory() as folder:
            trainer.restore(checkpoint.load(Path(folder)))
    with ExitStack() as stack:
        logger = stack.enter_context(tracking.RunLogger(info)) if rank == 0 else None
        reporter = _Reporter(job, trainer=trainer, logger=logger, events=events)
        trainer.train(Hooks(log=reporter.log, save=reporter.save))


@dataclass(frozen=True)
class _Reporter:
    """Carries a worker's metrics and checkpoints out: rank 0 has a logger, the others only keep Ray Train in step."""

    job: Job
    trainer: Trainer
    logger: tracking.RunLogger | None
    events: Queue[Any]

    def log(self, step: int, metrics: Metrics) -> None:
        if self.logger is not None and metrics:
            self.logger.metrics(metrics, step=step)
            self.events.put_nowait((self.trainer.strategy.updates, metrics))

    def save(self, updates: int, state: checkpoint.TrainingState, metrics: Metrics) -> None:
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if self.logger is not None:
                checkpoint.save(Path(folder), state, alignnet=self.trainer.alignnet, recipe=self.job.recipe)
                self.logger.flush()  # a restart from this checkpoint must leave no gap in the metrics
                saved = Checkpoint.from_directory(folder)
            ray.train.report({"step": updates, **metrics}, checkpoint=saved)
