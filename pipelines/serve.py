"""A model behind HTTP, on Ray Serve, until it is told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.ray_session import Need, ray_session
from x2i_platform.errors import ClusterError
from x2i_platform.registry import models
from x2i_platform.serving.generator import read_recipe

APPLICATION = "x2i-platform"


@dataclass(frozen=True)
class Endpoint:
    """Where and how to serve."""

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float | None = None
    """For each replica; None takes the model's own recipe."""


def run(model: str, endpoint: Endpoint, *, tracking_uri: str, address: str | None, on_ready: Callable[[str], None]):
    """Serve a model until SIGINT or SIGTERM; `on_ready` is called with the URL once a replica has loaded it."""
    recipe = read_recipe(models.resolve(model, tracking_uri=tracking_uri))  # a wrong model is refused before Ray starts
    num_gpus = recipe.run.generate.num_gpus if endpoint.num_gpus is None else endpoint.num_gpus
    need = Need(cpus=endpoint.replicas * endpoint.num_cpus, gpus=endpoint.replicas * num_gpus)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ray_session(address, need=need):
        from ray import serve

        from x2i_platform.serving.app import build

        serve.start(http_options={"host": endpoint.host, "port": endpoint.port})
        arguments = {
            "model": model,
            "tracking_uri": tracking_uri,
            "replicas": endpoint.replicas,
            "num_cpus": endpoint.num_cpus,
            "num_gpus": num_gpus,
        }
        try:
            serve.run(build(arguments), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            serve.shutdown()
            raise ClusterError(f"model '{model}' can't be served: {' '.join(str(error).split())[-400:]}") from None
        on_ready(f"http://{endpoint.host}:{endpoint.port}")
        stop.wait()
        serve.shutdown()
