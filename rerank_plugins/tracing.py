"""Traces through OpenTelemetry's API, where it is installed; nothing where it is not."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from opentelemetry import trace as api
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rerank_plugins import __version__
from rerank_plugins._tracing import RemoteCall, ServerCall, Step, within

if TYPE_CHECKING:
    from rerank_plugins.config import RankingSettings
    from rerank_plugins.types import Ranking, ScoringRequest

Value = str | int | float
Attributes = dict[str, Value]

OURS: Final = "rerank_plugins."
KIND: Final = "openinference.span.kind"
MODEL: Final = "reranker.model_name"
TOP_K: Final = "reranker.top_k"
INPUT: Final = "reranker.input_documents"
OUTPUT: Final = "reranker.output_documents"

DOCUMENTS: Final = 20
"""Documents listed of each kind: an SDK keeps 128 attributes a span, and drops the oldest."""

_SUMMED: Final = ("documents", "scored", "pairs", "tokens", "truncated")
_SHARED: Final = ("batches", "cache_hits", "disk_hits", "queue_s", "compute_s")
"""Of all queries of a call together, so that their rankings repeat them."""


def asked(tasks: Sequence[ScoringRequest], config: RankingSettings, model: str) -> Attributes:
    """Return what is known when a call begins."""
    documents = sum(len(task.texts) for task in tasks)
    attributes: Attributes = {
        KIND: "RERANKER",
        MODEL: model,
        TOP_K: documents if config.top_n is None else config.top_n,
        f"{OURS}queries": len(tasks),
        f"{OURS}documents": documents,
    }
    if len(tasks) == 1:
        attributes |= _listed(INPUT, _inputs(tasks[0]))
    return attributes


def answered(rankings: Sequence[Ranking]) -> Attributes:
    """Return what is known when it ends."""
    stats = [ranking.stats for ranking in rankings]
    attributes: Attributes = {
        f"{OURS}returned": sum(len(ranking) for ranking in rankings),
        **{f"{OURS}{name}": sum(getattr(one, name) for one in stats) for name in _SUMMED},
        **{f"{OURS}{name}": max(getattr(one, name) for one in stats) for name in _SHARED},
    }
    worst = [status for status in ("failed", "partial") if status in {r.status for r in rankings}]
    attributes[f"{OURS}status"] = worst[0] if worst else "complete"
    models = [ranking.model for ranking in rankings if ranking.model is not None]
    if models:
        attributes[MODEL] = models[-1].model
    if len(rankings) == 1:
        found = ((one.index, one.relevance_score) for one in rankings[0])
        attributes |= _listed(OUTPUT, found)
    return attributes


def _inputs(task: ScoringRequest) -> Iterator[tuple[int, float]]:
    for index in range(len(task.texts)):
        yield (
            index,
            math.nan if task.retrieval_scores is None else float(task.retrieval_scores[index]),
        )


def _listed(name: str, documents: Iterator[tuple[int, float]]) -> Attributes:
    """Return the first documents: places in the caller's input as ids, and known scores."""
    attributes: Attributes = {}
    for place, (index, score) in zip(range(DOCUMENTS), documents, strict=False):
        attributes[f"{name}.{place}.document.id"] = str(index)
        if not math.isnan(score):
            attributes[f"{name}.{place}.document.score"] = score
    return attributes


MOST_STEPS: Final = 200
"""Steps of one call that become spans; the others are counted."""

# Trace ids only: baggage may hold what another party's server should not see.
PROPAGATOR: Final = TraceContextTextMapPropagator()


class _Note(NamedTuple):
    step: Step
    start: float
    end: float
    counts: Mapping[str, int | str]
    error: BaseException | None


class SpanTrace:
    """A call's span; its steps become spans when the call ends, in its caller's thread."""

    def __init__(self, tracer: api.Tracer, span: api.Span, offset: int) -> None:
        """Begin.

        Args:
            tracer: What makes the children.
            span: The call's.
            offset: Nanoseconds between the epoch and the zero of ``time.perf_counter``.
        """
        self._tracer = tracer
        self._span = span
        self._offset = offset
        self._context = api.set_span_in_context(span)
        self._notes: list[_Note] = []

    def note(
        self,
        step: Step,
        start: float,
        end: float,
        counts: Mapping[str, int | str],
        error: BaseException | None = None,
    ) -> None:
        """Keep a step until the call ends."""
        self._notes.append(_Note(step, start, end, counts, error))

    @contextmanager
    def remote(self, api: str, documents: int) -> Iterator[RemoteCall]:
        """Record a request to a server, and the server's answer."""
        call = RemoteCall()
        attributes: Attributes = {
            KIND: "CHAIN",
            "http.request.method": "POST",
            f"{OURS}api": api,
            f"{OURS}documents": documents,
        }
        span = self._start("rerank.remote", now(self._offset), attributes, remote=True)
        try:
            with as_current(span):
                PROPAGATOR.inject(call.headers)
                yield call
        except BaseException as error:
            record_failure(span, error)
            raise
        finally:
            span.set_attributes(_answer(call))
            span.end(now(self._offset))

    def failed(self, error: BaseException) -> None:
        """Record what kind of error it was; its message may repeat what the user sent."""
        record_failure(self._span, error)

    def ranked(self, rankings: Sequence[Ranking]) -> None:
        """Record what came of the call."""
        if self._span.is_recording() and rankings:
            self._span.set_attributes(answered(rankings))

    def close(self) -> None:
        """Record the steps, and end."""
        notes = list(self._notes)
        for note in notes[:MOST_STEPS]:
            attributes: Attributes = {OURS + name: value for name, value in note.counts.items()}
            attributes[KIND] = "CHAIN"
            span = self._start(f"rerank.{note.step}", self._at(note.start), attributes)
            if note.error is not None:
                record_failure(span, note.error)
            span.end(self._at(note.end))
        if len(notes) > MOST_STEPS:
            self._span.set_attribute(f"{OURS}steps_left_out", len(notes) - MOST_STEPS)
        self._span.end(now(self._offset))

    def _start(
        self, name: str, start: int, attributes: Attributes, *, remote: bool = False
    ) -> api.Span:
        kind = api.SpanKind.CLIENT if remote else api.SpanKind.INTERNAL
        return self._tracer.start_span(
            name, context=self._context, kind=kind, attributes=attributes, start_time=start
        )

    def _at(self, seconds: float) -> int:
        return self._offset + round(seconds * 1e9)


def now(offset: int) -> int:
    """Return the time in nanoseconds since the epoch, on the clock of a call."""
    return offset + time.perf_counter_ns()


@contextmanager
def as_current(span: api.Span) -> Iterator[None]:
    """Make a span the current one; of an error it would record the message too, so it may not."""
    with api.use_span(span, record_exception=False, set_status_on_exception=False):
        yield


def record_failure(span: api.Span, error: BaseException) -> None:
    """Record the class of an error; its message may repeat texts."""
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    span.set_status(api.StatusCode.ERROR)
    span.set_attribute("error.type", name)
    span.add_event("exception", {"exception.type": name})


def _answer(call: RemoteCall) -> Attributes:
    parts = urlsplit(call.address)
    attributes: Attributes = {f"{OURS}retries": max(0, call.attempts - 1)}
    if parts.hostname:
        attributes["server.address"] = parts.hostname
        attributes["server.port"] = parts.port or (443 if parts.scheme == "https" else 80)
    if call.status is not None:
        attributes["http.response.status_code"] = call.status
    return attributes


_SERVER_FAULT: Final = 500


class OpenTelemetryTracer:
    """Records calls through OpenTelemetry's API, for whatever SDK the process has set up."""

    def __init__(self) -> None:
        """Ask for a tracer; an SDK may be set up later."""
        self._tracer = api.get_tracer("rerank_plugins", __version__)

    @contextmanager
    def rank(
        self, tasks: Sequence[ScoringRequest], config: RankingSettings, model: str
    ) -> Iterator[SpanTrace | None]:
        """Record a call of a reranker; see :class:`~rerank_plugins._tracing.Tracer`."""
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
