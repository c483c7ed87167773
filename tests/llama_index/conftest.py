"""Fixtures of the LlamaIndex tests: sync and async calls, and event recorders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from llama_index.core.callbacks import CBEventType
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.schema import NodeWithScore, TextNode

from rerank_plugins.llama_index import CrossEncoderPostprocessor

Rerank = Callable[..., list[NodeWithScore]]

TEXTS = ("rain falls on the plain", "goethe wrote faust", "goethe was born in frankfurt")


class EventRecorder(BaseEventHandler):
    """Records every instrumentation event."""

    events: list[Any] = []  # noqa: RUF012  (a pydantic field; each recorder has its own)

    def handle(self, event: BaseEvent, **_: object) -> None:
        self.events.append(event)

    def of(self, prefix: str) -> list[Any]:
        return [event for event in self.events if type(event).__name__.startswith(prefix)]


class CallbackRecorder(BaseCallbackHandler):
    """Records every legacy callback event of type RERANKING."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.starts: list[dict[str, Any]] = []
        self.ends: list[dict[str, Any]] = []

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **_: object,
    ) -> str:
        if event_type == CBEventType.RERANKING:
            self.starts.append({**(payload or {}), "id": event_id, "parent": parent_id})
        return event_id

    def on_event_end(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        **_: object,
    ) -> None:
        if event_type == CBEventType.RERANKING:
            self.ends.append({**(payload or {}), "id": event_id})

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(
        self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None
    ) -> None: ...


@dataclass
class Reported:
    """Events, spans and callbacks recorded during a test."""

    events: EventRecorder = field(default_factory=EventRecorder)
    spans: SimpleSpanHandler = field(default_factory=SimpleSpanHandler)
    callbacks: CallbackRecorder = field(default_factory=CallbackRecorder)


@pytest.fixture
def reported() -> Iterator[Reported]:
    root, recorders = get_dispatcher(), Reported()
    events, spans = list(root.event_handlers), list(root.span_handlers)
    root.add_event_handler(recorders.events)
    root.add_span_handler(recorders.spans)
    yield recorders
    root.event_handlers[:] = events
    root.span_handlers[:] = spans


@pytest.fixture(params=["sync", "async"])
def rerank(request: pytest.FixtureRequest) -> Rerank:
    """Call a postprocessor, through its sync or its async method."""

    def call(
        reranker: CrossEncoderPostprocessor, nodes: list[NodeWithScore], **query: Any
    ) -> list[NodeWithScore]:
        if request.param == "sync":
            return reranker.postprocess_nodes(nodes, **query)
        return asyncio.run(reranker.apostprocess_nodes(nodes, **query))

    return call


@pytest.fixture
def nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=text, id_=f"n{position}"), score=0.9 - position / 10)
        for position, text in enumerate(TEXTS)
    ]
