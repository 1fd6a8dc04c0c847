"""Runs the batches of a service in the Ray cluster that serves: one driver actor a batch, which holds the Ray Data job.

The service owns its drivers, and a driver owns its workers. Whoever dies takes those below along, so nothing goes on
unseen; what is made stays in the batch's folder. On a cluster of several nodes that folder must be on a shared disk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.batches import ERRORS_FILE, OUTPUT_FILE, Batch, Tally, run_missing, write_results
from pipelines.generator_pool import demand_of
from pipelines.ray_cluster.session import quiet_ray_data, require_room
from x2i_platform.errors import ClusterError, X2IError, to_text
from x2i_platform.features.files import Files
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.recipes import override
from x2i_platform.serving.batch_lines import Refusal
from x2i_platform.serving.batch_records import BatchTask, Results, RunState
from x2i_platform.serving.pinned import fetch

FAILURES_FILE = "failures.json"
POLL_TIMEOUT_S = 10.0


class RayRunner:
    """The runner of a service. Its arguments are plain, because it travels to the service before Ray runs there."""

    def __init__(self, *, tracking_uri: str, overrides: tuple[str, ...] = ()) -> None:
        self._tracking_uri, self._overrides = tracking_uri, overrides
        self._drivers: dict[str, Any] = {}

    def start(self, task: BatchTask) -> None:
        """Begin, or go on where an earlier run ended."""
        self.cancel(task.id)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # Two threads: one works, one answers polls.
        driver = ray.remote(_Driver).options(num_cpus=0, max_concurrency=2, scheduling_strategy=here).remote()
        driver.work.remote(task, tracking_uri=self._tracking_uri, overrides=self._overrides)
        self._drivers[task.id] = driver

    def poll(self, batch_id: str) -> RunState | None:
        """How far the run is; None if nobody is at work."""
        driver = self._drivers.get(batch_id)
        if driver is None:
            return None
        try:
            state: RunState = ray.get(driver.state.remote(), timeout=POLL_TIMEOUT_S)
        except GetTimeoutError:
            return RunState()  # busy; it is asked again
        except RayActorError:
            del self._drivers[batch_id]
            return None
        return state

    def cancel(self, batch_id: str) -> None:
        """End the run; its workers go with it."""
        driver = self._drivers.pop(batch_id, None)
        if driver is not None:
            ray.kill(driver)

    def finish(self, task: BatchTask, *, left_out: Refusal) -> Results:
        """Write the output and error files of what is there."""
        files = Files(task.out)
        failures = json.loads(files.read(FAILURES_FILE)) if files.exists(FAILURES_FILE) else {}
        batch = batch_of(task, tracking_uri=self._tracking_uri, overrides=self._overrides)
        written = write_results(batch, failures=failures, left_out=left_out)
        return Results(
            output=Path(task.out, OUTPUT_FILE) if written.completed else None,
            errors=Path(task.out, ERRORS_FILE) if written.failed else None,
            completed=written.completed,
            failed=written.failed,
        )


def batch_of(task: BatchTask, *, tracking_uri: str, overrides: tuple[str, ...]) -> Batch:
    """The batch of a task. Raises WeightsError if its model has changed, RegistryError if it is gone."""
    folder = fetch(task.model, tracking_uri=tracking_uri)
    recipe = override(read_recipe(folder), overrides)
    return Batch(task.input, task.out, folder, recipe, model=task.model, endpoint=task.endpoint)


class _Driver:
    """Drives one batch. It is an actor, so that killing it ends the job."""

    def __init__(self) -> None:
        self._tally, self._finished = Tally(), False
        self._error: str | None = None

    def work(self, task: BatchTask, *, tracking_uri: str, overrides: tuple[str, ...]) -> None:
        """Make what is missing, and leave behind what failed."""
        try:
            batch = batch_of(task, tracking_uri=tracking_uri, overrides=overrides)
            require_room(demand_of(batch.recipe))
            quiet_ray_data()
            self._tally = Tally.of(batch)
            if self._tally.missing:
                for _ in run_missing(batch, self._tally):
                    pass
            Files(task.out).publish(FAILURES_FILE, json.dumps(self._tally.failures).encode())
            self._finished = True
        except X2IError as error:
            self._error = to_text(error)
        except RayError as error:
            self._error = to_text(ClusterError(" ".join(str(error).split())[:500]))

    def state(self) -> RunState:
        """How far it is."""
        tally = self._tally
        return RunState(tally.total, tally.completed, tally.failed, finished=self._finished, error=self._error)
