"""The tracing interface of the package: counts and times, never a text.

:func:`get_tracer` returns the tracer of :mod:`rerank_plugins.tracing` if OpenTelemetry is
installed, and one that records nothing otherwise. No other module names a tracing library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rerank_plugins._lazy import require
from rerank_plugins.errors import MissingDependencyError

if TYPE_CHECKING:
    from rerank_plugins.config import RankingSettings
    from rerank_plugins.types import Ranking, ScoringRequest

Step = Literal["queue", "tokenize", "score"]


@dataclass
class RemoteCall:
    """One request to a server with all of its attempts; the client sets the attributes.

    Attributes:
        headers: Headers to send, so that the server continues the trace.
        address: URL of the last attempt.
        status: HTTP status of the last response; None without one.
        attempts: Number of attempts.
    """

    headers: dict[str, str] = field(default_factory=dict)
    address: str = ""
    status: int | None = None
    attempts: int = 0


@dataclass
class ServerCall:
    """One request to our server; ``status`` is 0 until it is answered."""

    status: int = 0


class Trace(Protocol):
    """The recording of one call of a reranker; thread-safe."""

    def record_step(
        self,
        step: Step,
        start: float,
        end: float,
        counts: Mapping[str, int | str],
        error: BaseException | None = None,
    ) -> None:
        """Record a step that has ended, on the clock of :func:`time.perf_counter`."""

    def remote(self, api_name: str, documents: int) -> AbstractContextManager[RemoteCall]:
        """Record a request to a server."""

    def record_error(self, error: BaseException) -> None:
        """Record that scoring failed."""

    def record_rankings(self, rankings: Sequence[Ranking]) -> None:
        """Record the rankings that the call returns."""


class NoTracer:
    """A tracer that records nothing; the tracer of a library is a subclass.

    Attributes:
        start_span: Starts a span of a name; None without a library.
    """

    start_span: Callable[[str], Any] | None = None

    def rank(
        self, requests: Sequence[ScoringRequest], config: RankingSettings, model: str
    ) -> AbstractContextManager[Trace | None]:
        """Record a call of a reranker; the trace is None if nothing is recorded."""
        span = None if self.start_span is None else self.start_span("rerank")
        if span is None or not span.get_span_context().is_valid:  # there is no SDK
            return nullcontext()
        return self.record(span, requests, config, model)

    def record(
        self,
        span: Any,  # noqa: ANN401  (its library may be missing)
        requests: Sequence[ScoringRequest],
        config: RankingSettings,
        model: str,
    ) -> AbstractContextManager[Trace | None]:
        """Record a call of a reranker in its span."""
        return nullcontext()

    def serve(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[ServerCall]:
        """Record a request to our server in the trace of its headers."""
        return nullcontext(ServerCall())


_current: ContextVar[Trace | None] = ContextVar("rerank_plugins_trace", default=None)

current_trace: Callable[[], Trace | None] = _current.get
"""Return the trace of the current context; None if the call is not recorded."""


@cache
def get_tracer() -> NoTracer:
    """Return the tracer of this process: OpenTelemetry's, if it is installed."""
    try:
        tracer: NoTracer = require("rerank_plugins.tracing", "tracing").OpenTelemetryTracer()
    except MissingDependencyError:
        return NoTracer()
    return tracer


@contextmanager
def within(trace: Trace | None) -> Iterator[None]:
    """Make a trace the current one of this context."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


def remote_call(
    trace: Trace | None, api: str, documents: int
) -> AbstractContextManager[RemoteCall]:
    """Record a request to a server, if the trace is not None."""
    return nullcontext(RemoteCall()) if trace is None else trace.remote(api, documents)
