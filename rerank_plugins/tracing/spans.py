"""A call's span and its children, one for each step of the work."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from opentelemetry import trace as api
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rerank_plugins.core.tracing import RemoteCall, Step
from rerank_plugins.tracing.attributes import KIND, OURS, Attributes, answered

if TYPE_CHECKING:
    from rerank_plugins.core.types import Ranking

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
