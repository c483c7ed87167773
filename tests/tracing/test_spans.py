"""What a call leaves in a trace: its span, one for each step, and no text."""

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
from rerank_plugins.tracing import MOST_STEPS
from tests.helpers.engines import FaultyCrossEncoder, GatedCrossEncoder, out_of_memory_beyond
from tests.tracing.conftest import Spans, times, trace_of, values

QUERY = "who wrote faust"
TEXTS = ["it rains", "goethe wrote faust", "faust"]
STEPS = ["rerank.queue", "rerank.score", "rerank.tokenize"]


def test_the_names_are_openinferences_own() -> None:
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
    found = values(rerank)
    assert found["openinference.span.kind"] == "RERANKER"
    assert found["reranker.model_name"] == "fake"
    assert found["reranker.top_k"] == 2
    assert found["reranker.input_documents.1.document.id"] == "1"
    assert found["reranker.input_documents.1.document.score"] == 2.0
    for place, one in enumerate(ranking):
        assert found[f"reranker.output_documents.{place}.document.id"] == str(one.index)
        score = found[f"reranker.output_documents.{place}.document.score"]
        assert score == one.relevance_score
    counts = {"queries": 1, "documents": 3, "scored": 3, "pairs": 3, "returned": 2, "batches": 1}
    assert {name: found[f"rerank_plugins.{name}"] for name in counts} == counts
    assert found["rerank_plugins.tokens"] == ranking.stats.tokens
    assert found["rerank_plugins.status"] == "complete"

    children = spans.under(rerank)
    assert sorted(one.name for one in children) == STEPS
    slack = 50_000_000  # two clocks
    for child in children:
        (begun, ended), (start, end) = times(rerank), times(child)
        assert before - slack <= begun <= start <= end <= ended <= after + slack
    queue, score = spans.one("rerank.queue"), spans.one("rerank.score")
    waited = (times(queue)[1] - times(queue)[0]) / 1e9
    assert waited == pytest.approx(ranking.stats.queue_s, abs=1e-6)
    assert times(spans.one("rerank.tokenize"))[1] <= times(queue)[1] <= times(score)[0]
    assert values(score)["rerank_plugins.tokens"] == ranking.stats.tokens


def test_callers_that_share_a_batch_have_each_their_own(spans: Spans) -> None:
    """Each parent has a score span with its own counts and the times of the shared batch."""
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
        time.sleep(0.2)  # the preparer catches up while the worker waits
        gated.gate.set()
        for job in (first, *others):
            job.result(30)
    assert len(gated.batches) == 2
    calls = spans.named("rerank")
    assert len(calls) == 7
    shared: list[tuple[int, int]] = []
    for call in calls:
        documents = values(call)["rerank_plugins.documents"]
        (score,) = [one for one in spans.under(call) if one.name == "rerank.score"]
        assert trace_of(score) == trace_of(call)
        assert values(score)["rerank_plugins.items"] == documents
        if values(score)["rerank_plugins.batch_items"] != 1:
            assert values(score)["rerank_plugins.batch_items"] == sum(range(1, 7))
            shared.append(times(score))
    # Each call reads the clock of the day once, so the same moment may differ by microseconds.
    assert np.ptp(np.array(shared), axis=0).max() < 1_000_000
    assert len({trace_of(one) for one in calls}) == 7


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
            one for one in spans.named("rerank") if one.parent and one.parent.span_id == parent
        ]
        assert values(call)["rerank_plugins.documents"] == number + 1
        assert sorted(one.name for one in spans.under(call)) == STEPS


def test_many_queries_are_one_span(spans: Spans) -> None:
    Reranker(FakeCrossEncoder()).rank_many([("a b", ["a", "b"]), ("c", ["c"]), ("d", [])])
    found = values(spans.one("rerank"))
    assert found["rerank_plugins.queries"] == 3
    assert found["rerank_plugins.documents"] == found["rerank_plugins.returned"] == 3
    assert found["rerank_plugins.batches"] == 1
    assert not [name for name in found if "_documents." in name]


def test_both_stages_of_a_cascade_say_which_model(spans: Spans) -> None:
    cross, bi = FakeCrossEncoder(), FakeBiEncoder()
    Reranker(Cascade([(BiEncoder(bi), 2), Reranker(cross)])).rank(QUERY, TEXTS)
    scores = [values(one) for one in spans.under(spans.one("rerank")) if one.name == "rerank.score"]
    assert [one["rerank_plugins.items"] for one in scores] == [4, 2]


def test_known_scores_need_no_batch(spans: Spans) -> None:
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
    found = values(span)
    assert span.dropped_attributes == 0
    assert found["openinference.span.kind"] == "RERANKER"
    assert "reranker.input_documents.20.document.id" not in found


def test_the_steps_of_a_long_call_are_bounded(spans: Spans) -> None:
    Reranker(FakeCrossEncoder(batch_tokens=8)).rank("w1", [f"w{n} x" for n in range(300)])
    call = spans.one("rerank")
    assert len(spans.under(call)) == MOST_STEPS
    assert values(call)["rerank_plugins.steps_left_out"] > 0


def test_memory_that_ran_out_and_the_second_try(spans: Spans) -> None:
    model = FaultyCrossEncoder(out_of_memory_beyond(2))
    Reranker(model).rank(QUERY, TEXTS)
    scores = spans.named("rerank.score")
    assert scores[0].status.status_code is StatusCode.ERROR
    assert values(scores[0])["error.type"] == "rerank_plugins.errors.OutOfMemoryError"
    assert len(spans.named("rerank.queue")) == 1
    assert spans.one("rerank").status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("on_error", ["raise", "passthrough"])
def test_errors_are_named_and_not_quoted(
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
    assert [dict(one.attributes or {}) for one in call.events] == [
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
    """The same one: what an adapter does is map."""
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
    one, other = (values(span) for span in spans.named("rerank"))
    timed = ("rerank_plugins.queue_s", "rerank_plugins.compute_s")
    assert {**one, **dict.fromkeys(timed)} == {**other, **dict.fromkeys(timed)}
    assert one["openinference.span.kind"] == "RERANKER"
    assert one["reranker.top_k"] == 2
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
