"""The Ray Serve application: an ingress, encoders and denoisers. The only module that imports ray.serve.

    HTTP ──► Ingress ──► Encoder (MLLM + AlignNets) ──► conditioning, as an object ──► Denoiser (DiT + VAE)

Prompts and pictures go to an encoder alone, and only conditioning to a denoiser. Invariants: a replica serves the
versions that were deployed or followed, or none; a replica that dies costs a request a second attempt, not its life.

What goes between deployments is the values of `travel`, and errors as text.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve import Application
from ray.serve.schema import ReplicaState
from starlette.types import ASGIApp

from x2i_platform.errors import from_text
from x2i_platform.media.fetching import Fetcher
from x2i_platform.registry import tracking
from x2i_platform.serving.batch_records import Runner
from x2i_platform.serving.batches import Batches
from x2i_platform.serving.catalogue import Catalogue, Follower, Offer
from x2i_platform.serving.deployment import Deployment
from x2i_platform.serving.files import FileStore
from x2i_platform.serving.http.app import make_app
from x2i_platform.serving.http.audit import log_to
from x2i_platform.serving.http.guards import GuardConfig, guarded
from x2i_platform.serving.jobs import Jobs
from x2i_platform.serving.metrics import Metrics
from x2i_platform.serving.pinned import Pinned, pin_model, require_same_base
from x2i_platform.serving.queue import Queue
from x2i_platform.serving.replicas import DenoiserReplica, EncoderReplica
from x2i_platform.serving.service import NoReplicaError, ReplicaLostError, Service
from x2i_platform.serving.travel import Drawing, Drawn, Progress, Wanted, Watcher

LIVENESS_S = 1.0
"""Seconds between looks whether replicas run; Ray Serve itself looks as often."""
IDLE_LOOK_S = 0.1
"""Seconds between looks whether a replica that is to stop is idle; Ray Serve's default of 2 prolongs every stop."""
AUDIT_FILE = "audit.jsonl"
SLOTS_A_REPLICA = 2
"""Batches of a denoiser that are let out of the queue: one that is drawn, and the next, whose prompts are read."""
Result = TypeVar("Result")


class Replicas:
    """The backend of a service: replicas that come and go."""

    def __init__(self, encoder: Any, denoiser: Any, *, recovery_s: float) -> None:
        self.encoder, self.denoiser = encoder, denoiser
        self._recovery_s = recovery_s
        self._looked_at = self._alive_at = -math.inf
        self._look: asyncio.Task[None] | None = None
        self._answered_at = dict.fromkeys((encoder.deployment_name, denoiser.deployment_name), -math.inf)

    async def load(self, model: Pinned) -> None:
        for answer in await self.encoder.broadcast("load", model).results_async():
            _unless_error(answer)

    async def encode(self, wanted: Wanted) -> list[Any]:
        answer = self._while_alive(_result_of(self.encoder.encode.remote(wanted)), of=self.encoder)
        return _unless_error(await answer)  # type: ignore[no-any-return]

    async def draw(self, drawing: Drawing, *, watcher: Watcher | None) -> Drawn:
        if watcher is None:
            answer = self._while_alive(_result_of(self.denoiser.draw.remote(drawing)), of=self.denoiser)
            return _unless_error(await answer)  # type: ignore[no-any-return]
        return await self._while_alive(self._watched(drawing, watcher), of=self.denoiser)

    async def ready(self) -> str | None:
        return None if await self._running() else "no replica"

    async def _watched(self, drawing: Drawing, watcher: Watcher) -> Drawn:
        events = self.denoiser.options(stream=True).watch.remote(drawing)
        try:
            async for event in events:
                if isinstance(event, Progress):
                    watcher(event)
                else:
                    return _unless_error(event)  # type: ignore[no-any-return]
        finally:
            events.cancel()
        raise ReplicaLostError

    async def _while_alive(self, answer: Awaitable[Result], *, of: Any) -> Result:
        """Wait for an answer of a deployment while its replicas run: Ray Serve would wait for one for ever.

        Raises ReplicaLostError if the replica died, NoReplicaError if none ran meanwhile for `recovery_s`.
        """
        pending, began = asyncio.ensure_future(answer), time.monotonic()
        try:
            while not pending.done():
                # From its own begin at the earliest: while nobody asks, nobody looks.
                if not await self._running() and time.monotonic() - max(self._alive_at, began) > self._recovery_s:
                    raise NoReplicaError
                await asyncio.wait({pending}, timeout=LIVENESS_S)
            result = pending.result()
            self._answered_at[of.deployment_name] = time.monotonic()
            return result
        except (RayActorError, ObjectLostError) as error:
            raise ReplicaLostError from error
        except RayTaskError as error:
            if isinstance(error.cause, ObjectLostError | RayActorError):  # of an encoder, seen by a denoiser
                raise ReplicaLostError from error
            raise
        finally:
            pending.cancel()

    async def _running(self) -> bool:
        """Whether an encoder and a denoiser run: both have just answered, or it is looked at, once a second at most.

        A look takes tens of milliseconds of this process, which under load are many.
        """
        self._alive_at = max(self._alive_at, min(self._answered_at.values()))
        if self._look is None and time.monotonic() - max(self._looked_at, self._alive_at) >= LIVENESS_S:
            self._look = asyncio.create_task(self._look_at_replicas())
        if self._look:
            await asyncio.shield(self._look)  # everybody who asks meanwhile waits for the same look
        return time.monotonic() - self._alive_at < 2 * LIVENESS_S

    async def _look_at_replicas(self) -> None:
        try:
            application = (await asyncio.to_thread(serve.status)).applications.get(self.encoder.app_name)
            deployments = application.deployments if application else {}
            counts = [
                deployments[handle.deployment_name].replica_states.get(ReplicaState.RUNNING, 0)
                for handle in (self.encoder, self.denoiser)
                if handle.deployment_name in deployments
            ]
            if len(counts) == 2 and min(counts) > 0:
                self._alive_at = time.monotonic()
        finally:
            self._looked_at, self._look = time.monotonic(), None


@serve.ingress()
class Ingress:
    """The HTTP application, with the queue, the jobs and the models that are followed."""

    def __init__(
        self,
        encoder: Any,
        denoiser: Any,
        *,
        offers: list[Offer],
        deployment: Deployment,
        guard: GuardConfig,
        runner: Runner | None,
        uri: str,
    ) -> None:
        self.guard = guard.model_copy(update={"needs_length": True})
        backend = Replicas(encoder, denoiser, recovery_s=deployment.recovery_s)
        slots = deployment.denoisers[1] * SLOTS_A_REPLICA * _max_batch(deployment, offers[0])
        queue = Queue(slots=slots, limit=deployment.max_queued_requests)
        fetcher = Fetcher(guard.allowed_hosts) if guard.allowed_hosts else None
        self.service = Service(Catalogue(offers), backend, queue=queue, metrics=Metrics(), fetcher=fetcher)
        self.follower = Follower(self.service.catalogue, backend.load, tracking_uri=uri, every_s=deployment.follow_s)
        state = deployment.state_folder
        log_to(state / AUDIT_FILE)
        self.jobs = Jobs(self.service, folder=state / "jobs")
        self.batches = None
        if runner:
            find, files = self.service.catalogue.pinned, FileStore(state / "files")
            self.batches = Batches(files, runner, folder=state / "batches", find=find)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        app = make_app(self.service, self.jobs, batches=self.batches, follower=self.follower)
        return guarded(app, self.guard)

    async def drain(self, grace_s: float) -> None:
        """Take nothing more, finish what is there or hand it back as failed when the time is over."""
        await self.service.drain(grace_s=grace_s)
        await self.jobs.close()
        await self.service.close()


def build(args: Mapping[str, Any], *, runner: Runner | None = None) -> Application:
    """The application of a service. Its arguments are those of `Deployment`; with a `runner` it offers batches.

    What the models' names mean is decided here. Raises ConfigError for an argument, RegistryError or WeightsError if
    there is no such model, or two can't share their MLLM and DiT.
    """
    deployment = Deployment.of(args)
    uri = deployment.tracking_uri or tracking.default_tracking_uri()
    offers = [Offer(*pin_model(model, tracking_uri=uri)) for model in deployment.model]
    for offer in offers[1:]:
        require_same_base(offer.pinned, offer.recipe, base=offers[0].recipe)
    max_batch = _max_batch(deployment, offers[0])
    gpus = deployment.gpus(offers[0].recipe)
    encoder = _replicated(EncoderReplica, deployment, deployment.encoders, gpus=gpus.encoder, max_batch=max_batch).bind(
        [offer.pinned for offer in offers], tracking_uri=uri, num_gpus=gpus.encoder, max_batch=max_batch
    )
    denoiser = _replicated(
        DenoiserReplica, deployment, deployment.denoisers, gpus=gpus.denoiser, max_batch=max_batch
    ).bind(offers[0], num_gpus=gpus.denoiser, max_batch=max_batch, finish=deployment.finish)
    ingress = serve.deployment(
        Ingress,
        max_ongoing_requests=10_000,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_wait_loop_s=IDLE_LOOK_S,
    )
    guard = deployment.guard(os.environ)
    return ingress.bind(encoder, denoiser, offers=offers, deployment=deployment, guard=guard, runner=runner, uri=uri)


def _replicated(
    kind: type[Any], deployment: Deployment, numbers: tuple[int, int], *, gpus: float, max_batch: int
) -> Any:
    """A deployment of one kind, with a fixed number of replicas or one that follows the load."""
    least, most = numbers
    scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": max_batch}
    return serve.deployment(
        kind,
        **({"num_replicas": least} if least == most else {"autoscaling_config": scaling}),
        ray_actor_options={"num_gpus": gpus, "num_cpus": deployment.num_cpus},
        # The ingress has the queue. More than its slots only come where one request is for many images.
        max_ongoing_requests=SLOTS_A_REPLICA * max_batch * 10,
        max_constructor_retry_count=1,  # what is wrong with a model is still wrong the second time
        health_check_period_s=LIVENESS_S,
        graceful_shutdown_wait_loop_s=IDLE_LOOK_S,
    )


def _max_batch(deployment: Deployment, offer: Offer) -> int:
    return deployment.max_batch or offer.recipe.run.generate.batch_size


async def _result_of(response: Any) -> Any:
    """The result of a call. Cancelled, it ends the call too; Ray Serve does that by itself where a client left."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


def _unless_error(answer: Any) -> Any:
    """An answer of a replica. Raises the error that a text is."""
    if isinstance(answer, str) and answer:
        raise from_text(answer)
    return answer
