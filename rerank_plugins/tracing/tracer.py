"""What begins spans: one for each call of a reranker, and each request to a server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import trace as api

from rerank_plugins import __version__
from rerank_plugins.core.tracing import ServerCall, within
from rerank_plugins.tracing.attributes import asked
from rerank_plugins.tracing.spans import PROPAGATOR, SpanTrace, as_current, now, record_failure

if TYPE_CHECKING:
    from rerank_plugins.core.policy import RerankConfig
    from rerank_plugins.core.scored import Task

_SERVER_FAULT: Final = 500


class OpenTelemetryTracer:
    """Records calls through OpenTelemetry's API, for whatever SDK the process has set up."""

    def __init__(self) -> None:
        """Ask for a tracer; an SDK may be set up later."""
        self._tracer = api.get_tracer("rerank_plugins", __version__)

    @contextmanager
    def rank(
        self, tasks: Sequence[Task], config: RerankConfig, model: str
    ) -> Iterator[SpanTrace | None]:
        """Record a call of a reranker; see :class:`~rerank_plugins.core.tracing.Tracer`."""
        offset = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span("rerank", start_time=now(offset))
        if not span.get_span_context().is_valid:  # there is no SDK
            yield None
            return
        if span.is_recording():
            span.set_attributes(asked(tasks, config, model))
        trace = SpanTrace(self._tracer, span, offset)
        try:
            with as_current(span), within(trace):
                yield trace
        except BaseException as error:
            trace.failed(error)
            raise
        finally:
            trace.close()

    @contextmanager
    def serve(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[ServerCall]:
        """Record a request to a server, unless an instrumentation of its own does so."""
        call = ServerCall()
        if api.get_current_span().get_span_context().is_valid:
            yield call
            return
        span = self._tracer.start_span(
            f"{method} {path}",
            context=PROPAGATOR.extract(dict(headers)),
            kind=api.SpanKind.SERVER,
            attributes={"http.request.method": method, "url.path": path},
        )
        try:
            with as_current(span):
                yield call
        except BaseException as error:
            record_failure(span, error)
            raise
        finally:
            if call.status:
                span.set_attribute("http.response.status_code", call.status)
            if call.status >= _SERVER_FAULT:
                span.set_status(api.StatusCode.ERROR)
            span.end()
