"""What Prometheus sees: requests by path and status, and the engines' counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from rerank_plugins.engine.engine import Engine
    from rerank_plugins.serving.logging import Record

Engines = Callable[[], Mapping[str, "Engine[Any]"]]

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
COUNTERS: Final = {
    "requests": "Requests to the engine, whatever became of them.",
    "cancelled": "Requests whose callers went away or ran out of time.",
    "items": "Pairs (or texts to embed) computed.",
    "tokens": "Tokens of those, without padding.",
    "padded_tokens": "Tokens computed, padding included.",
    "batches": "Batches computed; items over batches is how well requests share them.",
    "truncated": "Items of which the model could not read all.",
    "cache_hits": "Items whose results were known.",
    "out_of_memory": "Batches that did not fit and were tried again, smaller.",
    "queue_s": "Seconds that requests waited for their first batch, summed.",
    "compute_s": "Seconds in the model, summed.",
}
GAUGES: Final = {
    "queued_tokens": "Tokens that wait now.",
    "batch_tokens": "Token budget of a batch now.",
}


def metric_name(field: str) -> str:
    """Return the name of a counter or gauge of the engine."""
    stem = field.removesuffix("_s")
    return f"rerank_engine_{stem}" + ("_seconds" if stem != field else "")


class Metrics:
    """The metrics of one application, in a registry of their own.

    Attributes:
        registry: What ``/metrics`` shows.
        in_flight: Requests being answered now.
    """

    def __init__(self, engines: Engines) -> None:
        """Start at zero.

        Args:
            engines: Gives the engines by what they serve, when asked.
        """
        self.registry = CollectorRegistry()
        self.in_flight = Gauge(
            "rerank_requests_in_flight", "Requests being answered now.", registry=self.registry
        )
        self._requests = Counter(
            "rerank_requests", "HTTP requests.", ("path", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "rerank_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ("path",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._documents = Counter(
            "rerank_documents", "Documents received.", ("path",), registry=self.registry
        )
        self.registry.register(_EngineCollector(engines))
        ProcessCollector(registry=self.registry)

    def count(self, path: str, record: Record) -> None:
        """Count a request that was answered."""
        self._requests.labels(path, str(record.status)).inc()
        self._seconds.labels(path).observe(record.seconds)
        self._documents.labels(path).inc(record.documents)


class _EngineCollector(Collector):
    """Reads the engines' own counters when Prometheus asks."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        stats = {kind: engine.stats() for kind, engine in self._engines().items()}
        for field, help_text in COUNTERS.items():
            counter = CounterMetricFamily(metric_name(field), help_text, labels=("kind",))
            for kind, one in stats.items():
                counter.add_metric((kind,), getattr(one, field))
            yield counter
        for field, help_text in GAUGES.items():
            gauge = GaugeMetricFamily(metric_name(field), help_text, labels=("kind",))
            for kind, one in stats.items():
                gauge.add_metric((kind,), getattr(one, field))
            yield gauge
