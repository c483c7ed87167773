"""Traces through OpenTelemetry's API, where it is installed; nothing where it is not."""

from __future__ import annotations

from rerank_plugins._optional import require
from rerank_plugins.core.tracing import NoTracer, Tracer, register_tracer
from rerank_plugins.errors import MissingDependencyError


def _tracer() -> Tracer:
    try:
        made: Tracer = require("rerank_plugins.tracing.tracer", "tracing").OpenTelemetryTracer()
    except MissingDependencyError:
        return NoTracer()
    return made


register_tracer(_tracer)
