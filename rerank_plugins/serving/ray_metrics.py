"""The engines' counters as Ray metrics, which carry the replica that they are of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge

from rerank_plugins.core.engine import Engine
from rerank_plugins.serving.metrics import COUNTERS, GAUGES, metric_name


class EngineMetrics:
    """Reports to the metrics endpoint of the node; Ray adds application, deployment, replica."""

    def __init__(self) -> None:
        """Start at zero."""
        from ray.serve import metrics  # noqa: PLC0415  (only inside a replica)

        self._counters: dict[str, Counter] = {
            field: metrics.Counter(metric_name(field), text, tag_keys=("kind",))
            for field, text in COUNTERS.items()
        }
        self._gauges: dict[str, Gauge] = {
            field: metrics.Gauge(metric_name(field), text, tag_keys=("kind",))
            for field, text in GAUGES.items()
        }
        self._seen: dict[tuple[int, str], float] = {}

    def report(self, engines: Mapping[str, Engine[Any]]) -> None:
        """Add what was done since the last report."""
        for kind, engine in engines.items():
            stats = engine.stats()
            for field, counter in self._counters.items():
                key, value = (id(engine), field), float(getattr(stats, field))
                # Serve refuses to count nothing.
                if value > self._seen.get(key, 0.0):
                    counter.inc(value - self._seen.get(key, 0.0), tags={"kind": kind})
                self._seen[key] = value
            for field, gauge in self._gauges.items():
                gauge.set(float(getattr(stats, field)), tags={"kind": kind})
