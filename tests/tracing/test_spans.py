"""The spans of a call: one for the call, one per step, and no text."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from openinference.semconv.trace import (
    DocumentAttributes,
    OpenInferenceSpanKindValues,
    RerankerAttributes,
    SpanAttributes,
)
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from rerank_plugins import BiEncoder, Cache, Cascade, Reranker
from rerank_plugins import tracing as names
from rerank_plugins.errors import InferenceError
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from rerank_plugins.tracing import MAX_STEPS
from tests.helpers.engines import FaultyCrossEncoder, GatedCrossEncoder, out_of_memory_beyond
from tests.tracing.conftest import Spans, times, trace_of, values

QUERY = "who wrote faust"
TEXTS = ["it rains", "goethe wrote faust", "faust"]
STEPS = ["rerank.queue", "rerank.score", "rerank.tokenize"]


def test_the_names_are_those_of_openinference() -> None:
    assert names.KIND == SpanAttributes.OPENINFERENCE_SPAN_KIND
    assert OpenInferenceSpanKindValues.RERANKER.value == "RERANKER"
    assert names.MODEL == RerankerAttributes.RERANKER_MODEL_NAME
    assert names.TOP_K == RerankerAttributes.RERANKER_TOP_K
    assert names.INPUT == RerankerAttributes.RERANKER_INPUT_DOCUMENTS
    assert names.OUTPUT == RerankerAttributes.RERANKER_OUTPUT_DOCUMENTS
    assert DocumentAttributes.DOCUMENT_ID == "document.id"
    assert DocumentAttributes.DOCUMENT_SCORE == "document.score"


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_call_is_a_span_with_its_steps(spans: Spans, how: str) -> None:
    fake = FakeCrossEncoder()
    reranker = Reranker(fake, top_n=2)
    before = time.time_ns()
    with trace.get_tracer("test").start_as_current_span("outside") as outside:
        if how == "sync":
            ranking = reranker.rank(QUERY, TEXTS, retrieval_scores=[3, 2, 1])
        else:
            ranking = asyncio.run(reranker.arank(QUERY, TEXTS, retrieval_scores=[3, 2, 1]))
    after = time.time_ns()
    rerank = spans.one("rerank")
    assert rerank.parent is not None
    assert rerank.parent.span_id == outside.get_span_context().span_id
    assert rerank.status.status_code is StatusCode.UNSET
    attributes = values(rerank)
    assert attributes["openinference.span.kind"] == "RERANKER"
    assert attributes["reranker.model_name"] == "fake"
    assert attributes["reranker.top_k"] == 2
    assert attributes["reranker.input_documents.1.document.id"] == "1"
    assert attributes["reranker.input_documents.1.document.score"] == 2.0
    for position, document in enumerate(ranking):
        prefix = f"reranker.output_documents.{position}.document"
        assert attributes[f"{prefix}.id"] == str(document.index)
        assert attributes[f"{prefix}.score"] == document.relevance_score
    counts = {"queries": 1, "documents": 3, "scored": 3, "pairs": 3, "returned": 2, "batches": 1}
    assert {name: attributes[f"rerank_plugins.{name}"] for name in counts} == counts
    assert attributes["rerank_plugins.tokens"] == ranking.stats.tokens
    assert attributes["rerank_plugins.status"] == "complete"

    children = spans.under(rerank)
    assert sorted(child.name for child in children) == STEPS
    slack = 50_000_000  # two clocks
    for child in children:
        (first, last), (start, end) = times(rerank), times(child)
        assert before - slack <= first <= start <= end <= last <= after + slack
    queue, score = spans.one("rerank.queue"), spans.one("rerank.score")
    waited = (times(queue)[1] - times(queue)[0]) / 1e9
    assert waited == pytest.approx(ranking.stats.queue_s, abs=1e-6)
    assert times(spans.one("rerank.tokenize"))[1] <= times(queue)[1] <= times(score)[0]
    assert values(score)["rerank_plugins.tokens"] == ranking.stats.tokens


def test_callers_that_share_a_batch_have_their_own_spans(spans: Spans) -> None:
    """Each call has a score span with its own counts and the times of the shared batch."""
    gated = GatedCrossEncoder(batch_tokens=10_000)
    reranker = Reranker(gated)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(reranker.rank, "first", ["a"])
        assert gated.entered.wait(30)
        others = [
            pool.submit(reranker.rank, f"q{n}", [f"{n} {m}" for m in range(n + 1)])
            for n in range(6)
        ]
        while reranker.engine.stats().requests < 7:
            time.sleep(0.005)
        time.sleep(0.2)  # the tokenizer thread catches up while the worker waits
        gated.gate.set()
        for future in (first, *others):
            future.result(30)
    assert len(gated.batches) == 2
    calls = spans.named("rerank")
    assert len(calls) == 7
    shared: list[tuple[int, int]] = []
    for call in calls:
        documents = values(call)["rerank_plugins.documents"]
        (score,) = [span for span in spans.under(call) if span.name == "rerank.score"]
        assert trace_of(score) == trace_of(call)
        assert values(score)["rerank_plugins.items"] == documents
        if values(score)["rerank_plugins.batch_items"] != 1:
            assert values(score)["rerank_plugins.batch_items"] == sum(range(1, 7))
            shared.append(times(score))
    # Each call reads the wall clock once, so the same moment may differ by microseconds.
    assert np.ptp(np.array(shared), axis=0).max() < 1_000_000
    assert len({trace_of(call) for call in calls}) == 7


async def test_tasks_of_one_event_loop_do_not_mix(spans: Spans) -> None:
    reranker = Reranker(FakeCrossEncoder())
    tracer = trace.get_tracer("test")

    async def ask(number: int) -> tuple[int, int]:
        with tracer.start_as_current_span(f"task {number}") as span:
            await reranker.arank(f"q{number}", [f"{number} {n}" for n in range(number + 1)])
            assert trace.get_current_span() is span
            return number, span.get_span_context().span_id

    for number, parent in await asyncio.gather(*(ask(number) for number in range(8))):
        (call,) = [
            span for span in spans.named("rerank") if span.parent and span.parent.span_id == parent
        ]
        assert values(call)["rerank_plugins.documents"] == number + 1
        assert sorted(span.name for span in spans.under(call)) == STEPS


def test_many_queries_are_one_span(spans: Spans) -> None:
    Reranker(FakeCrossEncoder()).rank_many([("a b", ["a", "b"]), ("c", ["c"]), ("d", [])])
    attributes = values(spans.one("rerank"))
    assert attributes["rerank_plugins.queries"] == 3
    assert attributes["rerank_plugins.documents"] == attributes["rerank_plugins.returned"] == 3
    assert attributes["rerank_plugins.batches"] == 1
    assert not [name for name in attributes if "_documents." in name]


def test_both_stages_of_a_cascade_are_recorded(spans: Spans) -> None:
    cross, bi = FakeCrossEncoder(), FakeBiEncoder()
    Reranker(Cascade([(BiEncoder(bi), 2), Reranker(cross)])).rank(QUERY, TEXTS)
    steps = spans.under(spans.one("rerank"))
    scores = [values(step) for step in steps if step.name == "rerank.score"]
    assert [score["rerank_plugins.items"] for score in scores] == [4, 2]


def test_cached_scores_have_no_steps(spans: Spans) -> None:
    reranker = Reranker(model := FakeCrossEncoder(), cache=Cache(memory_mb=1))
    for _ in range(2):
        reranker.rank(QUERY, TEXTS)
    assert len(model.batches) == 1
    last = spans.named("rerank")[-1]
    assert values(last)["rerank_plugins.cache_hits"] == 3
    assert spans.under(last) == []


def test_a_thousand_documents_stay_within_the_limit_of_an_sdk(spans: Spans) -> None:
    Reranker(FakeCrossEncoder()).rank(
        "w1", [f"w{n}" for n in range(1_000)], retrieval_scores=range(1_000)
    )
    span = spans.one("rerank")
    attributes = values(span)
    assert span.dropped_attributes == 0
    assert attributes["openinference.span.kind"] == "RERANKER"
    assert "reranker.input_documents.20.document.id" not in attributes


def test_the_number_of_steps_is_limited(spans: Spans) -> None:
    Reranker(FakeCrossEncoder(batch_tokens=8)).rank("w1", [f"w{n} x" for n in range(300)])
    call = spans.one("rerank")
    assert len(spans.under(call)) == MAX_STEPS
    assert values(call)["rerank_plugins.steps_left_out"] > 0


def test_a_batch_that_ran_out_of_memory_and_its_retry_are_recorded(spans: Spans) -> None:
    model = FaultyCrossEncoder(out_of_memory_beyond(2))
    Reranker(model).rank(QUERY, TEXTS)
    scores = spans.named("rerank.score")
    assert scores[0].status.status_code is StatusCode.ERROR
    assert values(scores[0])["error.type"] == "rerank_plugins.errors.OutOfMemoryError"
    assert len(spans.named("rerank.queue")) == 1
    assert spans.one("rerank").status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("on_error", ["raise", "passthrough"])
def test_errors_are_recorded_without_their_messages(
    spans: Spans, on_error: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(query: str, document: str) -> float:
        message = f"cannot score {query} {document}"
        raise RuntimeError(message)

    reranker = Reranker(FakeCrossEncoder(fail), on_error=on_error)  # type: ignore[arg-type]
    caplog.set_level(logging.DEBUG, "rerank_plugins")
    if on_error == "raise":
        with pytest.raises(InferenceError, match="goethe"):
            reranker.rank(QUERY, TEXTS)
    else:
        ranking = reranker.rank(QUERY, TEXTS)
        assert ranking.error is not None
        assert values(spans.one("rerank"))["rerank_plugins.status"] == "failed"
        assert "InferenceError" in caplog.text
    call = spans.one("rerank")
    assert call.status.status_code is StatusCode.ERROR
    assert call.status.description is None
    assert values(call)["error.type"] == "rerank_plugins.errors.InferenceError"
    assert [dict(event.attributes or {}) for event in call.events] == [
        {"exception.type": "rerank_plugins.errors.InferenceError"}
    ]
    for text in (QUERY, *TEXTS, "cannot score"):
        assert text not in spans.json()
        assert text not in caplog.text


def test_a_cancelled_call_ends_its_span(spans: Spans) -> None:
    gated = GatedCrossEncoder()

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(Reranker(gated).arank(QUERY, TEXTS), 0.2)

    asyncio.run(give_up())
    gated.gate.set()
    assert values(spans.one("rerank"))["error.type"].endswith("CancelledError")


@pytest.mark.parametrize("how", ["sync", "async"])
def test_both_frameworks_have_a_reranker_span(spans: Spans, how: str) -> None:
    """Their spans are equal, because an adapter only maps."""
    model = FakeCrossEncoder()
    compressor = CrossEncoderCompressor(model=model, top_n=2)
    postprocessor = CrossEncoderPostprocessor(model=model, top_n=2)
    documents = [Document(text, id=f"d{n}") for n, text in enumerate(TEXTS)]
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    if how == "sync":
        compressor.compress_documents(documents, QUERY)
        postprocessor.postprocess_nodes(nodes, query_str=QUERY)
    else:
        asyncio.run(compressor.acompress_documents(documents, QUERY))
        asyncio.run(postprocessor.apostprocess_nodes(nodes, query_str=QUERY))
    compressed, postprocessed = (values(span) for span in spans.named("rerank"))
    timed = ("rerank_plugins.queue_s", "rerank_plugins.compute_s")
    assert {**compressed, **dict.fromkeys(timed)} == {
        **postprocessed,
        **dict.fromkeys(timed),
    }
    assert compressed["openinference.span.kind"] == "RERANKER"
    assert compressed["reranker.top_k"] == 2
    for call in spans.named("rerank"):
        assert sorted(child.name for child in spans.under(call)) == STEPS


MARK = "xylophon"
some_texts = st.lists(st.text(max_size=12).map(lambda text: f"{MARK} {text}"), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(some_texts, some_texts, st.booleans())
def test_no_text_is_in_any_span_or_log(  # noqa: PLR0917  (pytest passes them by name)
    spans: Spans,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    queries: list[str],
    texts: list[str],
    broken: bool,
) -> None:
    def score(query: str, document: str) -> float:
        if broken and len(document) % 3 == 0:
            raise RuntimeError(query + document)
        return float(np.float32(len(document)))

    caplog.set_level(logging.DEBUG)
    reranker = Reranker(FakeCrossEncoder(score), on_error="passthrough")
    reranker.rank_many((query, texts) for query in queries)
    reranker.rank(f"{MARK}?", texts)
    assert len(spans.named("rerank")) >= 2
    assert MARK not in spans.json()
    assert MARK not in caplog.text
    assert "".join(capsys.readouterr()) == ""
