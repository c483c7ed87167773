"""Tracing of rerank calls through LangChain callbacks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from langchain_core.callbacks import (
    AsyncCallbackManager,
    BaseCallbackHandler,
    CallbackManager,
    Callbacks,
)
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import InvalidScoresError
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import FloatArray

if TYPE_CHECKING:
    from tests.langchain.conftest import AsyncRecorder, Log, Recorder

QUERY = "red blue"
RUN = "CrossEncoderRerank"
OK = [("start", RUN), ("end", RUN)]
FAILED = [("start", RUN), ("error", RUN)]


def as_list(handler: BaseCallbackHandler) -> Callbacks:
    return [handler]


def as_manager(handler: BaseCallbackHandler) -> Callbacks:
    return CallbackManager.configure([handler])


def as_async_manager(handler: BaseCallbackHandler) -> Callbacks:
    return AsyncCallbackManager.configure([handler])


Form = Callable[[BaseCallbackHandler], Callbacks]
forms = pytest.mark.parametrize("form", [as_list, as_manager, as_async_manager])


@pytest.fixture(params=["sync handler", "async handler"])
def handler(
    request: pytest.FixtureRequest, recorder: Recorder, async_recorder: AsyncRecorder
) -> Recorder | AsyncRecorder:
    return recorder if request.param == "sync handler" else async_recorder


def assert_traced(log: Log, documents: list[Document], result: list[Document]) -> None:
    assert log.events == OK
    assert log.inputs == [{"query": QUERY, "documents": documents}]
    assert log.outputs == [{"documents": result}]


@forms
def test_sync(
    form: Form,
    handler: Recorder | AsyncRecorder,
    fake: FakeCrossEncoder,
    documents: list[Document],
) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    result = compressor.compress_documents(documents, QUERY, callbacks=form(handler))
    assert_traced(handler, documents, result)


@forms
async def test_async(
    form: Form,
    handler: Recorder | AsyncRecorder,
    fake: FakeCrossEncoder,
    documents: list[Document],
) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    result = await compressor.acompress_documents(documents, QUERY, callbacks=form(handler))
    assert_traced(handler, documents, result)


@forms
async def test_errors_end_the_traced_run(
    form: Form, handler: Recorder | AsyncRecorder, documents: list[Document]
) -> None:
    compressor = CrossEncoderCompressor(model=FakeCrossEncoder(lambda _q, _d: float("inf")))
    with pytest.raises(InvalidScoresError) as first:
        compressor.compress_documents(documents, QUERY, callbacks=form(handler))
    with pytest.raises(InvalidScoresError) as second:
        await compressor.acompress_documents(documents, QUERY, callbacks=form(handler))
    assert handler.events == FAILED * 2
    assert handler.errors == [first.value, second.value]


def test_invalid_documents_end_the_traced_run(fake: FakeCrossEncoder, recorder: Recorder) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    with pytest.raises(AttributeError, match="page_content"):
        compressor.compress_documents(["red"], QUERY, [recorder])  # type: ignore[list-item]
    assert recorder.events == FAILED


async def test_cancellation_ends_the_traced_run(
    recorder: Recorder, documents: list[Document]
) -> None:
    started, released = threading.Event(), threading.Event()

    class BlockingCrossEncoder(FakeCrossEncoder):
        def run(self, batch: list[TokenizedItem]) -> FloatArray:  # type: ignore[override]
            started.set()
            released.wait(10)
            return np.zeros(len(batch), dtype=np.float32)

    compressor = CrossEncoderCompressor(model=BlockingCrossEncoder())
    task = asyncio.create_task(compressor.acompress_documents(documents, QUERY, [recorder]))
    assert await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    released.set()
    assert recorder.events == FAILED


async def test_no_callbacks(fake: FakeCrossEncoder, documents: list[Document]) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    result = compressor.compress_documents(documents, QUERY, callbacks=None)
    assert await compressor.acompress_documents(documents, QUERY, callbacks=None) == result


async def test_no_documents_are_not_traced(fake: FakeCrossEncoder, recorder: Recorder) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    compressor.compress_documents([], QUERY, callbacks=[recorder])
    await compressor.acompress_documents([], QUERY, callbacks=[recorder])
    assert recorder.events == []


async def test_inside_a_runnable_the_rerank_is_a_child_run(
    fake: FakeCrossEncoder, recorder: Recorder, documents: list[Document]
) -> None:
    compressor = CrossEncoderCompressor(model=fake)

    def step(query: str) -> list[Document]:
        return compressor.compress_documents(documents, query)

    RunnableLambda(step, name="step").invoke(QUERY, {"callbacks": [recorder]})
    assert recorder.events == [("start", "step"), *OK, ("end", "step")]
    assert recorder.parents == {"step": None, RUN: "step"}


async def test_as_runnable_traces_sync_and_async(
    fake: FakeCrossEncoder, recorder: Recorder, documents: list[Document]
) -> None:
    runnable = CrossEncoderCompressor(model=fake).as_runnable()
    inputs = {"query": QUERY, "documents": documents}
    result = runnable.invoke(inputs, {"callbacks": [recorder]})
    assert await runnable.ainvoke(inputs, {"callbacks": [recorder]}) == result
    assert recorder.events == [("start", "rerank"), *OK, ("end", "rerank")] * 2
    assert recorder.parents == {"rerank": None, RUN: "rerank"}
