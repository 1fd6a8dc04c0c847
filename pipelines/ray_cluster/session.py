"""A Ray cluster for the length of a `with`: one started here, or an existing one that has room for the plan."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass

import ray
import ray.data
from ray._private import ray_constants
from ray.autoscaler.sdk import request_resources
from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError

from pipelines.ray_cluster.keys import own_keys
from x2i_platform.errors import ClusterError

OBJECT_STORE_BYTES = 200 * 1024**2
"""Size of the object store: only numbers and descriptors travel between Ray tasks, and an evaluation's prompts. Ray
spills what is larger to disk."""

CONNECT_TIMEOUT_S = 10
MAX_RESTARTS = 5


@dataclass(frozen=True)
class Demand:
    """Resources that must be there at once."""

    cpus: float
    gpus: float = 0.0


@contextmanager
def ray_session(address: str | None, *, demand: Demand) -> Iterator[None]:
    """Connect to the cluster at an address, or start one on this machine.

    Raises ClusterError if the address doesn't answer, or the cluster is smaller than the plan. An autoscaled cluster
    is asked for nodes first and given $X2I_WAIT_FOR_NODES_S seconds to bring them. A cluster started here gets as many
    logical CPUs as the plan needs: they schedule, they don't count cores.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    # Ray's threads print on stdout what happens to its workers; only results belong there.
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        try:
            if address:
                _require_answer(address)
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                stack.enter_context(own_keys())
                _start_here(demand)
        except (OSError, ValueError, RuntimeError) as error:
            place, reason = address or "this machine", " ".join(str(error).split())
            raise ClusterError(f"no Ray cluster at '{place}': {reason}") from None
        wait_s = float(os.environ.get("X2I_WAIT_FOR_NODES_S", "0")) if address else 0.0
        try:
            if wait_s:
                _wait_for_room(demand, wait_s=wait_s)
            require_room(demand)
            quiet_ray_data()
            yield
        finally:
            if wait_s:
                request_resources(bundles=[])  # or the autoscaler would keep the nodes for ever
            ray.shutdown()


def quiet_ray_data() -> None:
    """Have Ray Data draw and warn nothing in this process: the command line draws its own progress."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    # Ray Data 2.60 has no other place yet to say how often an actor restarts.
    warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")


def _require_answer(address: str) -> None:
    """Raise OSError if nobody listens at `host:port`: Ray itself would try for five minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()


def bounded_restarts() -> dict[str, int]:
    """Ray Data's remote arguments with bounded restarts. Its default, endless restarts, hangs if the cause stays."""
    return {"max_restarts": MAX_RESTARTS, "max_task_retries": MAX_RESTARTS}


def worker_error(error: Exception) -> Exception:
    """A user's view of one of Ray's errors: one line for workers that died; other errors are bugs and returned as they
    are.
    """
    if isinstance(error, RayActorError | WorkerCrashedError | OutOfMemoryError):
        return ClusterError(f"a worker died too often: {' '.join(str(error).split())[:500]}")
    return error


def _start_here(demand: Demand) -> None:
    """Start a cluster on this machine only, with its ports on loopback: Ray runs any code that it is sent."""
    # Ray replaces 127.0.0.1 by the machine's outer address, and then listens there, unless clusters are disabled.
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray.init(
        "local",
        num_cpus=max(os.cpu_count() or 1, math.ceil(demand.cpus) + 1),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )


def _wait_for_room(demand: Demand, *, wait_s: float) -> None:
    gpus = math.ceil(demand.gpus)
    without_gpu = max(0, math.ceil(demand.cpus) - gpus)
    request_resources(bundles=[{"CPU": 1, "GPU": 1}] * gpus + [{"CPU": 1}] * without_gpu)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and not _has_room(demand):
        time.sleep(1)


def _has_room(demand: Demand) -> bool:
    have = ray.cluster_resources()
    return bool(have.get("CPU", 0.0) >= demand.cpus and have.get("GPU", 0.0) >= demand.gpus)


def require_room(demand: Demand) -> None:
    """Raise ClusterError if the cluster is smaller than the plan, however busy it is now."""
    if not _has_room(demand):
        have = ray.cluster_resources()
        cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
        raise ClusterError(
            f"the plan needs {demand.cpus:g} CPUs and {demand.gpus:g} GPUs at once, the Ray cluster has {cpus:g} and "
            f"{gpus:g}; add nodes, or lower the actors, workers, num_cpus or num_gpus under `run`"
        )
