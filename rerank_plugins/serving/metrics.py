"""Prometheus metrics: HTTP requests by path and status, and the counters of the engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from rerank_plugins.engine.engine import Engine
    from rerank_plugins.serving.logging import RequestRecord

GetEngines = Callable[[], Mapping[str, "Engine[Any]"]]

ENGINE_COUNTERS: Final = {
    "requests": "Requests to the engine, including failed and cancelled ones.",
    "cancelled": "Requests that were cancelled or exceeded their deadline.",
    "items": "Pairs, or texts to embed, computed.",
    "tokens": "Tokens of the computed items, without padding.",
    "padded_tokens": "Tokens computed, including padding.",
    "batches": "Batches computed; items per batch is items divided by batches.",
    "truncated": "Items that exceeded the maximum length.",
    "cache_hits": "Items answered from the cache.",
    "out_of_memory": "Batches that did not fit into memory and were retried in smaller ones.",
    "queue_s": "Total seconds from the submission of a request to its first batch.",
    "compute_s": "Total seconds in the model.",
}
"""Counters of :class:`EngineStats`, with their help texts."""

ENGINE_GAUGES: Final = {
    "queued_tokens": "Tokens in the queue.",
    "batch_tokens": "Token budget of a batch.",
}
"""Current values of :class:`EngineStats`, with their help texts."""

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Metrics of one application; each scrape calls ``get_engines``."""

    def __init__(self, get_engines: GetEngines) -> None:
        """Register the metrics."""
        self.registry = CollectorRegistry()
        self.in_flight = Gauge(
            "rerank_requests_in_flight", "Requests in flight.", registry=self.registry
        )
        self._requests = Counter(
            "rerank_requests", "HTTP requests.", ("path", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "rerank_request_seconds",
            "Seconds from the arrival of a request to the end of its response.",
            ("path",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._documents = Counter(
            "rerank_documents", "Documents received.", ("path",), registry=self.registry
        )
        self.registry.register(_EngineCollector(get_engines))
        ProcessCollector(registry=self.registry)

    def count(self, path: str, record: RequestRecord) -> None:
        """Count a finished request."""
        self._requests.labels(path, str(record.status)).inc()
        self._seconds.labels(path).observe(record.seconds)
        self._documents.labels(path).inc(record.documents)


def engine_metric_name(field: str) -> str:
    """Return the metric name of a field of :class:`EngineStats`."""
    stem = field.removesuffix("_s")
    return f"rerank_engine_{stem}" + ("_seconds" if stem != field else "")


class _EngineCollector(Collector):
    """Reads the statistics of the engines at each scrape."""

    def __init__(self, get_engines: GetEngines) -> None:
        self._get_engines = get_engines

    def collect(self) -> Iterator[Metric]:
        stats = {kind: engine.stats() for kind, engine in self._get_engines().items()}
        families = ((CounterMetricFamily, ENGINE_COUNTERS), (GaugeMetricFamily, ENGINE_GAUGES))
        for family, fields in families:
            for field, help_text in fields.items():
                metric = family(engine_metric_name(field), help_text, labels=("kind",))
                for kind, engine_stats in stats.items():
                    metric.add_metric((kind,), getattr(engine_stats, field))
                yield metric
