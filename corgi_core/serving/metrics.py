"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    generate_latest,
)
from prometheus_client.registry import Collector

from corgi_core.serving.engine import Engine

SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 12, 16)


class ServingMetrics:
    """The figures of one server, in a registry of their own.

    Args:
        replica: Names it among the processes that answer under one address, each with figures of
            its own: they have it as a label. Empty where there is one process.
    """

    def __init__(self, replica: str = "") -> None:
        self.registry = CollectorRegistry()
        self._replica = replica
        self.requests = Counter(
            "corgi_requests", "Requests answered, by route and status.", ["route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "corgi_request_seconds", "From a request to its answer.", ["route"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.cancelled = Counter(
            "corgi_cancelled",
            "Requests whose client went away or cancelled them.",
            registry=self.registry,
        )
        self.pictures = Counter("corgi_pictures", "Pictures sampled.", registry=self.registry)
        self.batches = Histogram(
            "corgi_batch_pictures",
            "Pictures sampled together.",
            buckets=BATCHES,
            registry=self.registry,
        )
        self.sampling = Histogram(
            "corgi_batch_seconds", "Sampling a batch.", buckets=SECONDS, registry=self.registry
        )
        self.reloads = Counter(
            "corgi_reloads", "Loads of promoted models.", ["outcome"], registry=self.registry
        )
        self._waiting = Gauge(
            "corgi_queue_pictures", "Pictures that wait or are sampled.", registry=self.registry
        )
        self._capacity = Gauge(
            "corgi_queue_capacity_pictures",
            "As many may wait or be sampled.",
            registry=self.registry,
        )
        self._stale = Gauge(
            "corgi_model_is_stale", "1: a promoted model cannot be loaded.", registry=self.registry
        )
        self._model = Info("corgi_model", "The models that answer.", registry=self.registry)

    def batch_was_sampled(self, count: int, seconds: float) -> None:
        """Count a batch."""
        self.pictures.inc(count)
        self.batches.observe(count)
        self.sampling.observe(seconds)

    def text(self, engine: Engine, is_stale: bool) -> bytes:
        """All figures in Prometheus' text format."""
        self._waiting.set(engine.queue.size)
        self._capacity.set(engine.queue.capacity)
        self._stale.set(is_stale)
        self._model.info({"id": engine.model.id, "name": engine.model.about["name"]})
        if self._replica:
            return generate_latest(_OfReplica(self.registry, self._replica))
        return generate_latest(self.registry)


class _OfReplica(Collector):
    """A registry's figures with one more label."""

    def __init__(self, registry: CollectorRegistry, replica: str) -> None:
        self._registry, self._replica = registry, replica

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={**sample.labels, "replica": self._replica})
                for sample in metric.samples
            ]
            yield metric
