"""Traces through OpenTelemetry's API, with the attribute names of OpenInference.

A call of a reranker is one span, and its steps (queue, tokenize, score, remote) are children of
it. No span holds a text, nor the message of an error, which may quote one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry import trace as api
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rerank_plugins import __version__
from rerank_plugins._tracing import NoTracer, RemoteCall, ServerCall, Step, within

if TYPE_CHECKING:
    from rerank_plugins.config import RankingSettings
    from rerank_plugins.types import Ranking, ScoringRequest

Value = str | int | float
Attributes = dict[str, Value]

PREFIX: Final = "rerank_plugins."
KIND: Final = "openinference.span.kind"
MODEL: Final = "reranker.model_name"
TOP_K: Final = "reranker.top_k"
INPUT: Final = "reranker.input_documents"
OUTPUT: Final = "reranker.output_documents"

DOCUMENTS: Final = 20
"""Maximum number of documents listed as input, and as output: an SDK keeps 128 attributes per span
and drops the oldest."""

_SUMMED: Final = ("documents", "scored", "pairs", "tokens", "truncated")
_SHARED: Final = ("batches", "cache_hits", "disk_hits", "queue_s", "compute_s")
"""Statistics of the whole call, which each of its rankings repeats."""


def call_attributes(
    requests: Sequence[ScoringRequest], config: RankingSettings, model: str
) -> Attributes:
    """Return the attributes of a call that begins."""
    documents = sum(len(request.texts) for request in requests)
    attributes: Attributes = {
        KIND: "RERANKER",
        MODEL: model,
        TOP_K: documents if config.top_n is None else config.top_n,
        f"{PREFIX}queries": len(requests),
        f"{PREFIX}documents": documents,
    }
    if len(requests) == 1:
        attributes |= _document_attributes(INPUT, _inputs(requests[0]))
    return attributes


def ranking_attributes(rankings: Sequence[Ranking]) -> Attributes:
    """Return the attributes of a call that ends."""
    all_stats = [ranking.stats for ranking in rankings]
    attributes: Attributes = {
        f"{PREFIX}returned": sum(len(ranking) for ranking in rankings),
        **{f"{PREFIX}{name}": sum(getattr(stats, name) for stats in all_stats) for name in _SUMMED},
        **{f"{PREFIX}{name}": max(getattr(stats, name) for stats in all_stats) for name in _SHARED},
    }
    statuses = {ranking.status for ranking in rankings}
    worst = next((status for status in ("failed", "partial") if status in statuses), "complete")
    attributes[f"{PREFIX}status"] = worst
    models = [ranking.model for ranking in rankings if ranking.model is not None]
    if models:
        attributes[MODEL] = models[-1].model
    if len(rankings) == 1:
        scores = ((document.index, document.relevance_score) for document in rankings[0])
        attributes |= _document_attributes(OUTPUT, scores)
    return attributes


def _inputs(request: ScoringRequest) -> Iterator[tuple[int, float]]:
    scores = request.retrieval_scores
    for index in range(len(request.texts)):
        yield index, math.nan if scores is None else float(scores[index])


def _document_attributes(name: str, documents: Iterator[tuple[int, float]]) -> Attributes:
    """Return the attributes of the first documents, given by their indices and scores or NaN."""
    attributes: Attributes = {}
    for position, (index, score) in zip(range(DOCUMENTS), documents, strict=False):
        attributes[f"{name}.{position}.document.id"] = str(index)
        if not math.isnan(score):
            attributes[f"{name}.{position}.document.score"] = score
    return attributes


MAX_STEPS: Final = 200
"""Maximum number of steps of a call that become spans; the others are counted."""

# Only trace ids are sent: baggage may hold data that is not meant for the server.
PROPAGATOR: Final = TraceContextTextMapPropagator()


class SpanTrace:
    """The span of a call; its steps become spans when the call ends, in the caller's thread."""

    def __init__(self, tracer: api.Tracer, span: api.Span) -> None:
        """Create the trace of a span that has just started; the tracer starts its children."""
        self._tracer = tracer
        self._span = span
        # Nanoseconds between the epoch and the zero of time.perf_counter.
        self._offset = time.time_ns() - time.perf_counter_ns()
        self._context = api.set_span_in_context(span)
        self._steps: list[tuple[Step, float, float, Attributes, BaseException | None]] = []

    def record_step(
        self,
        step: Step,
        start: float,
        end: float,
        counts: Mapping[str, int | str],
        error: BaseException | None = None,
    ) -> None:
        """Keep a step until the call ends."""
        attributes: Attributes = {
            KIND: "CHAIN",
            **{PREFIX + name: value for name, value in counts.items()},
        }
        self._steps.append((step, start, end, attributes, error))

    @contextmanager
    def remote(self, api_name: str, documents: int) -> Iterator[RemoteCall]:
        """Record a request to a server, and its response."""
        call = RemoteCall()
        attributes: Attributes = {
            KIND: "CHAIN",
            "http.request.method": "POST",
            f"{PREFIX}api": api_name,
            f"{PREFIX}documents": documents,
        }
        span = self._start("rerank.remote", self._now(), attributes, api.SpanKind.CLIENT)
        try:
            with as_current(span):
                PROPAGATOR.inject(call.headers)
                yield call
        except BaseException as error:
            record_failure(span, error)
            raise
        finally:
            span.set_attributes(_response_attributes(call))
            span.end(self._now())

    def record_error(self, error: BaseException) -> None:
        """Record the class of an error of the call."""
        record_failure(self._span, error)

    def record_rankings(self, rankings: Sequence[Ranking]) -> None:
        """Record the rankings that the call returns."""
        if self._span.is_recording() and rankings:
            self._span.set_attributes(ranking_attributes(rankings))

    def close(self) -> None:
        """Record the steps and end the span."""
        steps = list(self._steps)
        for step, start, end, attributes, error in steps[:MAX_STEPS]:
            span = self._start(f"rerank.{step}", self._at(start), attributes)
            if error is not None:
                record_failure(span, error)
            span.end(self._at(end))
        if len(steps) > MAX_STEPS:
            self._span.set_attribute(f"{PREFIX}steps_left_out", len(steps) - MAX_STEPS)
        self._span.end(self._now())

    def _start(
        self,
        name: str,
        start: int,
        attributes: Attributes,
        kind: api.SpanKind = api.SpanKind.INTERNAL,
    ) -> api.Span:
        return self._tracer.start_span(name, self._context, kind, attributes, start_time=start)

    def _now(self) -> int:
        return self._offset + time.perf_counter_ns()

    def _at(self, seconds: float) -> int:
        return self._offset + round(seconds * 1e9)


@contextmanager
def as_current(span: api.Span) -> Iterator[None]:
    """Make a span the current one, without recording errors: their messages may quote texts."""
    with api.use_span(span, record_exception=False, set_status_on_exception=False):
        yield


def record_failure(span: api.Span, error: BaseException) -> None:
    """Record the class of an error, without its message, which may quote texts."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    span.set_status(api.StatusCode.ERROR)
    span.set_attribute("error.type", name)
    span.add_event("exception", {"exception.type": name})


def _response_attributes(call: RemoteCall) -> Attributes:
    parts = urlsplit(call.address)
    attributes: Attributes = {f"{PREFIX}retries": max(0, call.attempts - 1)}
    if parts.hostname:
        attributes["server.address"] = parts.hostname
        attributes["server.port"] = parts.port or (443 if parts.scheme == "https" else 80)
    if call.status is not None:
        attributes["http.response.status_code"] = call.status
    return attributes


class OpenTelemetryTracer(NoTracer):
    """Records calls through OpenTelemetry's API, with the SDK of the process."""

    def __init__(self) -> None:
        """Get a tracer of the API; the SDK may be set up later."""
        self._tracer = api.get_tracer("rerank_plugins", __version__)
        self.start_span = self._tracer.start_span

    @contextmanager
    def record(
        self,
        span: api.Span,
        requests: Sequence[ScoringRequest],
        config: RankingSettings,
        model: str,
    ) -> Iterator[SpanTrace]:
        """Record a call of a reranker in its span."""
        if span.is_recording():
            span.set_attributes(call_attributes(requests, config, model))
        trace = SpanTrace(self._tracer, span)
        try:
            with as_current(span), within(trace):
                yield trace
        except BaseException as error:
            trace.record_error(error)
            raise
        finally:
            trace.close()

    @contextmanager
    def serve(self, method: str, path: str, headers: Mapping[str, str]) -> Iterator[ServerCall]:
        """Record a request to our server, unless another instrumentation does so."""
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
            if call.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                span.set_status(api.StatusCode.ERROR)
            span.end()
