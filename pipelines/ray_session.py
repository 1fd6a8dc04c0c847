"""A Ray cluster for the length of a `with`: one started here, or an existing one that has room for the plan."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
import ray.data

from x2i_platform.errors import ClusterError

OBJECT_STORE_BYTES = 200 * 1024**2
"""Only descriptors travel between Ray tasks here, never tensors."""


@dataclass(frozen=True)
class Need:
    """Resources that must be there at once."""

    cpus: float
    gpus: float = 0.0


@contextmanager
def ray_session(address: str | None, *, need: Need) -> Iterator[None]:
    """Connect to the cluster at an address, or start one on this machine.

    Raises ClusterError if the address doesn't answer, or the cluster is smaller than the plan. A cluster started here
    gets as many logical CPUs as the plan needs: they schedule, they don't count cores.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # everything is bound to loopback
            ray.init(
                "local",
                num_cpus=max(os.cpu_count() or 1, math.ceil(need.cpus) + 1),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(f"no Ray cluster at '{address or 'this machine'}': {' '.join(str(error).split())}") from None
    try:
        _require_room(ray.cluster_resources(), need=need)
        ray.data.DataContext.get_current().enable_progress_bars = False  # the command line draws its own
        yield
    finally:
        ray.shutdown()


def _require_room(have: dict[str, float], *, need: Need) -> None:
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    if cpus < need.cpus or gpus < need.gpus:
        raise ClusterError(
            f"the plan needs {need.cpus:g} CPUs and {need.gpus:g} GPUs at once, the Ray cluster has {cpus:g} and "
            f"{gpus:g}; add nodes, or lower the actors, workers, num_cpus or num_gpus under `run`"
        )
