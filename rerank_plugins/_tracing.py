"""What a ranking tells whoever records traces: counts and times, never a text.

The core names no tracing library. ``rerank_plugins.tracing`` registers one tracer; without
the library it is the one here, which records nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal, Protocol

from rerank_plugins._lazy import require
from rerank_plugins.errors import MissingDependencyError

if TYPE_CHECKING:
    from rerank_plugins.config import RankingSettings
    from rerank_plugins.types import Ranking, ScoringRequest

Step = Literal["queue", "tokenize", "score"]


@dataclass
class RemoteCall:
    """One request to a server, all attempts included; whoever sends it fills this in.

    Attributes:
        headers: To be sent, so that the server continues the trace.
        address: URL of the server that was asked last.
        status: HTTP status of its answer; None without one.
        attempts: How often a server was asked.
    """

    headers: dict[str, str] = field(default_factory=dict)
    address: str = ""
    status: int | None = None
    attempts: int = 0


@dataclass
class ServerCall:
    """One request that a server answers; ``status`` is 0 until it does."""

    status: int = 0


class Trace(Protocol):
    """One call of a reranker as it is recorded. Safe from any thread."""

    def note(
        self,
        step: Step,
        start: float,
        end: float,
        counts: Mapping[str, int | str],
        error: BaseException | None = None,
    ) -> None:
        """Record a step of the work that has ended, on the clock of :func:`time.perf_counter`."""
        ...

    def remote(self, api: str, documents: int) -> AbstractContextManager[RemoteCall]:
        """Record a request to a server from beginning to end."""
        ...

    def failed(self, error: BaseException) -> None:
        """Record that scoring failed though the call goes on."""
        ...

    def ranked(self, rankings: Sequence[Ranking]) -> None:
        """Record what came of the call."""
        ...


class Tracer(Protocol):
    """Records calls."""

    def rank(
        self, tasks: Sequence[ScoringRequest], config: RankingSettings, model: str
    ) -> AbstractContextManager[Trace | None]:
        """Record a call of a reranker; None if nobody wants to know."""
        ...

    def serve(
        self, method: str, path: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[ServerCall]:
        """Record a request to a server, in the trace that its headers name."""
        ...


class NoTracer:
    """Records nothing."""

    def rank(
        self,
        tasks: Sequence[ScoringRequest],
        config: RankingSettings,
        model: str,
    ) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()

    def serve(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
    ) -> AbstractContextManager[ServerCall]:
        """Do nothing."""
        return nullcontext(ServerCall())


_current: ContextVar[Trace | None] = ContextVar("rerank_plugins_trace", default=None)

current_trace: Callable[[], Trace | None] = _current.get
"""Return the trace of the call that runs in this context, if it is recorded."""


@cache
def get_tracer() -> Tracer:
    """Return the tracer of this process: OpenTelemetry's, where it is installed."""
    try:
        tracer: Tracer = require("rerank_plugins.tracing", "tracing").OpenTelemetryTracer()
    except MissingDependencyError:
        return NoTracer()
    return tracer


@contextmanager
def within(trace: Trace | None) -> Iterator[None]:
    """Make a trace the one of this context."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


def remote_call(
    trace: Trace | None, api: str, documents: int
) -> AbstractContextManager[RemoteCall]:
    """Record a request to a server, if its caller is recorded."""
    return nullcontext(RemoteCall()) if trace is None else trace.remote(api, documents)
