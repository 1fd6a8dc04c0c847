"""What a service counts, for Prometheus. Free of Ray: encoders and denoisers send their figures with their results."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from x2i_platform.serving.travel import Drawn

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 180)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
RATES = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """The collectors of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.answers = Counter("x2i_http_answers", "HTTP answers", ("route", "status"), registry=registry)
        self.waiting = Gauge("x2i_queue_depth", "Requests that wait for a slot", registry=registry)
        self.working = Gauge("x2i_requests_at_work", "Requests that have a slot", registry=registry)
        self.queued = Histogram(
            "x2i_queue_seconds", "Seconds that requests waited for a slot", buckets=SECONDS, registry=registry
        )
        self.stages = Histogram(
            "x2i_stage_seconds",
            "Seconds of a stage: encode a prompt; wait for a batch, denoise and write an image",
            ("stage",),
            buckets=SECONDS,
            registry=registry,
        )
        self.batches = Histogram("x2i_batch_size", "Images in an image's batch", buckets=BATCHES, registry=registry)
        self.rates = Histogram(
            "x2i_steps_per_second", "Denoising steps a second of an image's batch", buckets=RATES, registry=registry
        )
        self.steps = Counter("x2i_denoising_steps", "Denoising steps, of all images", registry=registry)
        self.images = Counter("x2i_images", "Images made", ("model", "version"), registry=registry)
        self.cancels = Counter("x2i_cancels", "Requests and jobs that were cancelled", registry=registry)
        self.lost = Counter("x2i_replicas_lost", "Requests whose replica died at work", registry=registry)

    def drawn(self, drawn: Drawn, *, steps: int, model: str, version: str) -> None:
        """Count an image."""
        for stage, seconds in drawn.seconds.items():
            self.stages.labels(stage).observe(seconds)
        self.batches.observe(drawn.batch_size)
        self.rates.observe(steps / max(drawn.seconds["denoise"], 1e-6))
        self.steps.inc(steps)
        self.images.labels(model, version).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
