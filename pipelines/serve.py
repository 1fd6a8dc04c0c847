"""Serves a model over HTTP, on Ray Serve, until it is stopped."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ray import serve

from pipelines.ray_cluster.keys import is_locked
from pipelines.ray_cluster.session import Demand, ray_session
from x2i_platform.errors import ClusterError
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.registry import models
from x2i_platform.serving.app import build

APPLICATION = "x2i-platform"
OPEN_PORT = (
    "this Ray cluster takes calls from anybody: each replica opens a port on every address of its node, and whoever "
    "reaches it runs code there; start the cluster with RAY_AUTH_MODE=token or RAY_USE_TLS=1 (docs/security.md)"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """Where and how to serve."""

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float | None = None
    """GPUs per replica; None uses the model's recipe."""
    queue: int = 64
    """Requests that may wait for a replica; one more is answered 503."""

    @property
    def url(self) -> str:
        """URL for clients on this machine."""
        return f"http://{self.host}:{self.port}"


def run(
    model: str, endpoint: Endpoint, *, tracking_uri: str, address: str | None, on_ready: Callable[[str], None]
) -> None:
    """Serve a model until SIGINT or SIGTERM; `on_ready` is called with the URL once a replica has loaded it.

    Raises ClusterError if the port is taken, the cluster serves something already, or the model can't be loaded.
    """
    recipe = read_recipe(models.resolve(model, tracking_uri=tracking_uri))  # a wrong model is refused before Ray starts
    num_gpus = recipe.run.generate.num_gpus if endpoint.num_gpus is None else endpoint.num_gpus
    arguments = {
        "model": model if model.startswith(("models:", "runs:", "mini:")) else str(Path(model).absolute()),
        "tracking_uri": tracking_uri,
        "replicas": endpoint.replicas,
        "num_cpus": endpoint.num_cpus,
        "num_gpus": num_gpus,
        "max_queued_requests": endpoint.queue,
    }
    demand = Demand(cpus=endpoint.replicas * endpoint.num_cpus, gpus=endpoint.replicas * num_gpus)
    with ray_session(address, demand=demand), _until_told_to_stop(), _http(endpoint):
        if not is_locked():
            log.warning(OPEN_PORT)
        _deploy(arguments)
        on_ready(endpoint.url)
        threading.Event().wait()


@contextlib.contextmanager
def _until_told_to_stop() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, and neither is an error. Ray's own handlers leave without cleaning up."""

    def stop(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _http(endpoint: Endpoint) -> Iterator[None]:
    """Ray Serve's HTTP proxy on a port of its own, for the length of the block."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if serve.status().proxies:
        raise ClusterError(
            "this Ray cluster runs Ray Serve already, on a port of its own; deploy x2i_platform.serving.app:build to "
            "it with `serve deploy`, or use another cluster"
        )
    try:
        serve.start(http_options={"host": endpoint.host, "port": endpoint.port})
        yield
    except RuntimeError as error:
        if "Failed to bind" not in str(error):
            raise
        raise ClusterError(
            f"{endpoint.host}:{endpoint.port} can't be listened on; is the port taken? Choose another --port"
        ) from None
    finally:
        serve.shutdown()


def _deploy(arguments: dict[str, Any]) -> None:
    try:
        serve.run(build(arguments), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        status = serve.status().applications.get(APPLICATION)
        messages = [part.message for part in status.deployments.values()] if status else []
        # A replica's traceback ends with what went wrong: `x2i_platform.errors.WeightsError: AlignNet reads …`.
        reasons = [message.strip().splitlines()[-1] for message in [str(error), *messages] if message.strip()]
        raise ClusterError(f"the model can't be served: {reasons[-1].rpartition('Error: ')[2]}") from None
