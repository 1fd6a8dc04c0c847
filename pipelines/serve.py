"""Serves a model over HTTP, on Ray Serve, until it is stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from pipelines.batch_runner import RayRunner
from pipelines.ray_cluster.keys import is_locked
from pipelines.ray_cluster.session import Demand, ray_session
from x2i_platform.config import Recipe
from x2i_platform.errors import ClusterError, ConfigError
from x2i_platform.files import locked
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.registry import models, tracking
from x2i_platform.serving.app import build
from x2i_platform.serving.deployment import Deployment
from x2i_platform.serving.http import proxy
from x2i_platform.serving.keys import require_keys

APPLICATION = "x2i-platform"
END_S = 8.0
"""Seconds of the grace time, at most half of it, that are kept for Ray's own end: about 5 on two idle cores."""
EXIT_MARGIN_S = 15.0
"""Seconds beyond the grace time after which the command leaves, whatever still hangs."""
EXIT_UNCLEAN = 1
DRAIN_MARGIN_S = 5.0
"""Seconds beyond the time for work that the service has to say that it is done."""
TAKEN = "{endpoint.host}:{endpoint.port} can't be listened on; is the port taken? Choose another --port"
OPEN_PORT = (
    "this Ray cluster takes calls from anybody: each replica opens a port on every address of its node, and whoever "
    "reaches it runs code there; start the cluster with RAY_AUTH_MODE=token or RAY_USE_TLS=1 (docs/security.md)"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """Where to serve, and how long it may take to end when told to stop."""

    host: str = "127.0.0.1"
    port: int = 8000
    grace_s: float = 30.0

    @property
    def work_s(self) -> float:
        """Seconds of the grace time in which what was accepted is finished."""
        return self.grace_s - min(END_S, self.grace_s / 2)

    @property
    def url(self) -> str:
        """URL for clients on this machine."""
        return f"http://{self.host}:{self.port}"


def run(
    arguments: Mapping[str, Any], endpoint: Endpoint, *, address: str | None, on_ready: Callable[[str], None]
) -> None:
    """Serve models until SIGINT or SIGTERM; `on_ready` is called with the URL once replicas have loaded them.

    `arguments` are those of `Deployment`. When told to stop, what was accepted is finished, or handed back as failed in
    time to end within `grace_s`; told again, it stops at once. Raises ClusterError if the port is taken, the cluster
    serves something already, or the models can't be loaded; ConfigError if another service has the state folder.
    """
    arguments = {**arguments, "anonymous": True}  # where nobody else comes, which is asked here
    deployment = Deployment.of(arguments)
    require_keys(deployment.guard(os.environ).keys, host=endpoint.host)
    uri = deployment.tracking_uri or tracking.default_tracking_uri()
    # A wrong model is refused before Ray starts.
    recipe = read_recipe(models.resolve(deployment.model[0], tracking_uri=uri))
    demand = _demand(deployment, recipe)
    placed = {**arguments, "model": [_placed(model) for model in deployment.model], "tracking_uri": uri}
    os.environ.setdefault(proxy.VARIABLE, proxy.CALLBACK)  # for processes of a cluster that is started here
    elsewhere = address or os.environ.get("RAY_ADDRESS")  # port and folder are then those of another machine, perhaps
    with (
        contextlib.nullcontext() if elsewhere else _alone(endpoint, deployment.state_folder),
        _leaving_within(endpoint.grace_s + EXIT_MARGIN_S) as told_to_stop,
        ray_session(address, demand=demand),
        _until_told_to_stop(),
        _http(endpoint),
    ):
        if not is_locked():
            log.warning(OPEN_PORT)
        service = _deploy(placed)
        try:
            on_ready(endpoint.url)
            threading.Event().wait()
        finally:
            told_to_stop()
            _drain(service, work_s=endpoint.work_s)


def application(arguments: dict[str, Any]) -> Application:
    """The application for `serve deploy` and KubeRay's RayService, with batches. Raises as `build` does."""
    deployment = Deployment.of(arguments)
    gpus = () if deployment.batch_gpus is None else (f"run.generate.num_gpus={deployment.batch_gpus}",)
    uri = deployment.tracking_uri or tracking.default_tracking_uri()
    return build(arguments, runner=RayRunner(tracking_uri=uri, overrides=gpus))


def named_values(texts: Sequence[str]) -> dict[str, Any]:
    """Values of `name=value`, read as YAML. Raises ConfigError for a text that is none."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--guard '{text}' is not of the form NAME=VALUE, such as requests_per_minute=600")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--guard '{text}': the value is not YAML") from None
    return values


def _demand(deployment: Deployment, recipe: Recipe) -> Demand:
    """What the least number of replicas needs."""
    gpus = deployment.gpus(recipe)
    encoders, denoisers = deployment.encoders[0], deployment.denoisers[0]
    return Demand(
        cpus=(encoders + denoisers) * deployment.num_cpus,
        gpus=encoders * gpus.encoder + denoisers * gpus.denoiser,
    )


def _placed(model: str) -> str:
    """A model's name that means the same to a replica, which runs in another folder."""
    return model if model.startswith(("models:", "runs:", "mini:")) else str(Path(model).absolute())


def _require_free(endpoint: Endpoint) -> None:
    """Raise ClusterError for a port in use. Ray would share it with another Ray Serve, and clients get either."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        socket.create_server((endpoint.host, endpoint.port), family=family).close()
    except OSError as error:
        raise ClusterError(TAKEN.format(endpoint=endpoint)) from error


@contextlib.contextmanager
def _alone(endpoint: Endpoint, state: Path) -> Iterator[None]:
    """Hold a state folder of this machine: two services in one would end each other's jobs.

    Raises ConfigError if it is in use, ClusterError if the port is.
    """
    _require_free(endpoint)

    def refuse() -> None:
        raise ConfigError(f"the state folder {state} is in use by another service; give this one its own --state")

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(state / "lock", on_wait=refuse))
        except OSError as error:
            raise ConfigError(
                f"the state folder {state} can't be used: {error.strerror}; give another --state"
            ) from None
        yield


@contextlib.contextmanager
def _leaving_within(seconds: float) -> Iterator[Callable[[], None]]:
    """Yield what starts the clock, for the case that the block doesn't end in time.

    Where Ray's own processes were told to stop too, as systemd does, calls to them don't return.
    """
    leave = threading.Timer(seconds, os._exit, (EXIT_UNCLEAN,))
    leave.daemon = True
    try:
        yield leave.start
    finally:
        leave.cancel()


def _drain(service: Any, *, work_s: float) -> None:
    """Finish what was accepted."""

    def drain() -> None:
        with contextlib.suppress(RayError, RayServeException, TimeoutError):  # a service that died has nothing left
            service.drain.remote(work_s).result(timeout_s=work_s + DRAIN_MARGIN_S)

    draining = threading.Thread(target=drain, daemon=True)
    draining.start()
    draining.join(work_s + DRAIN_MARGIN_S)


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
            "this Ray cluster runs Ray Serve already, on a port of its own; deploy pipelines.serve:application to "
            "it with `serve deploy`, or use another cluster"
        )
    try:
        serve.start(http_options={"host": endpoint.host, "port": endpoint.port})
        yield
    except RuntimeError as error:
        if "Failed to bind" not in str(error):
            raise
        raise ClusterError(TAKEN.format(endpoint=endpoint)) from None
    finally:
        serve.shutdown()


def _deploy(arguments: dict[str, Any]) -> Any:
    """Start the service and wait until its models are loaded; returns the handle of its ingress."""
    try:
        return serve.run(application(arguments), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        status = serve.status().applications.get(APPLICATION)
        messages = [part.message for part in status.deployments.values()] if status else []
        # A replica's traceback ends with what went wrong: `x2i_platform.errors.WeightsError: AlignNet reads …`.
        reasons = [message.strip().splitlines()[-1] for message in [str(error), *messages] if message.strip()]
        raise ClusterError(f"the model can't be served: {reasons[-1].rpartition('Error: ')[2]}") from None
