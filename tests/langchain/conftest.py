"""Models, documents and callback handlers for the tests of the LangChain adapter."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.documents import Document

from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder


class Log:
    """Recorded events: kind of event, run name, inputs, outputs and errors."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.names: dict[UUID, str] = {}
        self.parents: dict[str, str | None] = {}
        self.inputs: list[object] = []
        self.outputs: list[object] = []
        self.errors: list[BaseException] = []

    def start(self, value: object, run_id: UUID, parent: UUID | None, name: str) -> None:
        self.events.append(("start", name))
        self.names[run_id] = name
        self.parents[name] = None if parent is None else self.names[parent]
        self.inputs.append(value)

    def end(self, value: object, run_id: UUID) -> None:
        self.events.append(("end", self.names[run_id]))
        self.outputs.append(value)

    def error(self, error: BaseException, run_id: UUID) -> None:
        self.events.append(("error", self.names[run_id]))
        self.errors.append(error)


class Recorder(Log, BaseCallbackHandler):
    """A synchronous handler."""

    def on_chain_start(
        self,
        serialized: object,
        inputs: object,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kw: object,
    ) -> None:
        self.start(inputs, run_id, parent_run_id, str(kw["name"]))

    def on_retriever_start(
        self,
        serialized: object,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kw: object,
    ) -> None:
        self.start(query, run_id, parent_run_id, str(kw["name"]))

    def on_chain_end(self, outputs: object, *, run_id: UUID, **kw: object) -> None:
        self.end(outputs, run_id)

    def on_retriever_end(
        self, documents: Sequence[Document], *, run_id: UUID, **kw: object
    ) -> None:
        self.end(documents, run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kw: object) -> None:
        self.error(error, run_id)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kw: object) -> None:
        self.error(error, run_id)


class AsyncRecorder(Log, AsyncCallbackHandler):
    """An asynchronous handler."""

    async def on_chain_start(
        self,
        serialized: object,
        inputs: object,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kw: object,
    ) -> None:
        self.start(inputs, run_id, parent_run_id, str(kw["name"]))

    async def on_chain_end(self, outputs: object, *, run_id: UUID, **kw: object) -> None:
        self.end(outputs, run_id)

    async def on_chain_error(self, error: BaseException, *, run_id: UUID, **kw: object) -> None:
        self.error(error, run_id)


@pytest.fixture
def fake() -> FakeCrossEncoder:
    return FakeCrossEncoder()


@pytest.fixture
def fake_bi_encoder() -> FakeBiEncoder:
    return FakeBiEncoder()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def async_recorder() -> AsyncRecorder:
    return AsyncRecorder()


@pytest.fixture
def documents() -> list[Document]:
    """Return documents whose order for the query "red blue" is 2, 0, 1."""
    return [
        Document("red sky", id="a", metadata={"source": "x", "relevance_score": 99.0}),
        Document("green grass", id="b", metadata={"source": "y"}),
        Document("red blue", id="c", metadata={"nested": {"page": 1}}),
    ]
