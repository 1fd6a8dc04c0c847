"""How the workers of a training find each other: on one machine without a port that others can reach.

PyTorch's own rendezvous is a server on every interface that anybody may read and write. Workers of one machine meet in
a file instead, a single worker in its own memory, and gloo and NCCL listen on loopback. Workers of several machines
meet as Ray Train does it (docs/security.md).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import ray
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend
from torch.distributed import FileStore, HashStore  # type: ignore[attr-defined]


@dataclass
class GroupConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's configuration of PyTorch, with this rendezvous."""

    @property
    def backend_cls(self) -> type[_GroupBackend]:
        """The class that sets up the workers."""
        return _GroupBackend


class _GroupBackend(_TorchBackend):  # type: ignore[misc]
    """Sets up every group of workers of a training; after a failure there is a new one."""

    folder: str | None = None

    def on_start(self, worker_group: Any, backend_config: GroupConfig) -> None:
        if len({worker.metadata.node_id for worker in worker_group.get_workers()}) > 1:
            super().on_start(worker_group, backend_config)
            return
        world = len(worker_group)
        worker_group.execute(_set_torch_distributed_env_vars)
        self.folder = worker_group.execute_single(0, tempfile.mkdtemp, prefix="x2i-train-") if world > 1 else None
        settings = {"backend": backend_config.backend, "timeout": timedelta(seconds=backend_config.timeout_s)}
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, self.folder, me=rank, world=world, **settings)
                for rank in range(world)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: GroupConfig) -> None:
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:
            if self.folder:
                with suppress(RayActorError):  # rank 0 may be what died
                    worker_group.execute_single(0, shutil.rmtree, self.folder, ignore_errors=True)


def _join(folder: str | None, *, me: int, world: int, **settings: Any) -> None:
    """Join the process group on one machine; without a folder, a group of one."""
    names = [name for name, found in psutil.net_if_addrs().items() if any(a.address == "127.0.0.1" for a in found)]
    os.environ.update({"GLOO_SOCKET_IFNAME": names[0], "NCCL_SOCKET_IFNAME": names[0]})
    # Nobody connects there; DeepSpeed goes looking for MPI where these are missing.
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"})
    store = FileStore(str(Path(folder, "store")), world) if folder else HashStore()
    dist.init_process_group(store=store, rank=me, world_size=world, **settings)
