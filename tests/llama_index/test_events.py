"""Instrumentation events, spans and legacy callbacks of a rerank."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.callbacks import CallbackManager, EventPayload
from llama_index.core.schema import NodeWithScore, QueryBundle

from rerank_plugins.errors import InferenceError, InvalidInputError
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from rerank_plugins.testing import FakeCrossEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

Rerank = Callable[..., list[NodeWithScore]]
Reported = Any  # the recorders of conftest.py

QUERY = "who wrote faust"


def make(reported: Reported, **settings: Any) -> CrossEncoderPostprocessor:
    manager = CallbackManager([reported.callbacks])
    return CrossEncoderPostprocessor(
        **{"model": FakeCrossEncoder(), "callback_manager": manager, **settings}
    )


def fail(*_: str) -> float:
    message = "boom"
    raise RuntimeError(message)


def names(events: Sequence[object]) -> list[str]:
    return [type(event).__name__ for event in events]


@pytest.mark.parametrize(("top_n", "reported_top_n"), [(None, 3), (2, 2), (9, 9)])
def test_start_and_end_events_are_paired_and_complete(
    rerank: Rerank,
    nodes: list[NodeWithScore],
    reported: Reported,
    top_n: int | None,
    reported_top_n: int,
) -> None:
    query = QueryBundle(QUERY)
    out = rerank(make(reported, top_n=top_n), nodes, query_bundle=query)
    start, end = reported.events.of("ReRank")
    assert names([start, end]) == ["ReRankStartEvent", "ReRankEndEvent"]
    assert (start.query, start.nodes, start.top_n, start.model_name) == (
        query,
        nodes,
        reported_top_n,
        "fake",
    )
    assert type(start.top_n) is int
    assert end.nodes == out
    assert start.span_id == end.span_id


def test_events_contain_the_model_name_as_configured(
    rerank: Rerank, nodes: list[NodeWithScore], reported: Reported
) -> None:
    rerank(make(reported, model="mini"), nodes, query_str=QUERY)
    assert reported.events.of("ReRankStart")[0].model_name == "mini"
    assert reported.callbacks.starts[0][EventPayload.MODEL_NAME] == "mini"


def test_events_have_the_span_of_the_method(
    rerank: Rerank, nodes: list[NodeWithScore], reported: Reported
) -> None:
    rerank(make(reported), nodes, query_str=QUERY)
    (span,) = [node for node in reported.spans.completed_spans if "postprocess_nodes" in node.id_]
    assert span.id_.startswith("CrossEncoderPostprocessor._")
    assert reported.events.of("ReRankStart")[0].span_id == span.id_


def test_the_legacy_callback_has_nodes_model_query_and_top_k(
    rerank: Rerank, nodes: list[NodeWithScore], reported: Reported
) -> None:
    out = rerank(make(reported, top_n=2), nodes, query_str=QUERY)
    (start,), (end,) = reported.callbacks.starts, reported.callbacks.ends
    assert start["id"] == end["id"]
    assert start[EventPayload.NODES] == nodes
    assert start[EventPayload.MODEL_NAME] == "fake"
    assert start[EventPayload.QUERY_STR] == QUERY
    assert start[EventPayload.TOP_K] == 2
    assert end[EventPayload.NODES] == out


def test_a_handler_set_later_receives_events(
    rerank: Rerank, nodes: list[NodeWithScore], reported: Reported
) -> None:
    reranker = make(reported, callback_manager=CallbackManager([]))
    reranker.callback_manager = CallbackManager([reported.callbacks])  # as query engines do
    rerank(reranker, nodes, query_str=QUERY)
    assert len(reported.callbacks.ends) == 1


def test_no_nodes_are_not_reported(rerank: Rerank, reported: Reported) -> None:
    rerank(make(reported), [], query_str=QUERY)
    assert reported.events.of("ReRank") == []
    assert reported.callbacks.starts == reported.callbacks.ends == []


def test_a_missing_query_is_not_reported_as_a_rerank(
    rerank: Rerank, nodes: list[NodeWithScore], reported: Reported
) -> None:
    with pytest.raises(InvalidInputError):
        rerank(make(reported), nodes)
    assert reported.events.of("ReRank") == []
    assert reported.callbacks.starts == []


def test_an_error_closes_all_spans_and_events(
    rerank: Rerank, nodes: list[NodeWithScore], reported: Reported
) -> None:
    reranker = make(reported, model=FakeCrossEncoder(fail))
    with pytest.raises(InferenceError) as caught:
        rerank(reranker, nodes, query_str=QUERY)
    (start,), (drop,) = reported.events.of("ReRank"), reported.events.of("SpanDrop")
    assert drop.span_id == start.span_id
    assert "boom" in drop.err_str
    assert [node.id_ for node in reported.spans.dropped_spans] == [start.span_id]
    assert reported.spans.open_spans == {}
    (begun,), (end,) = reported.callbacks.starts, reported.callbacks.ends
    assert begun["id"] == end["id"]
    assert end[EventPayload.EXCEPTION] is caught.value


def test_the_callback_is_a_child_of_the_surrounding_event(
    nodes: list[NodeWithScore], reported: Reported
) -> None:
    reranker = make(reported)
    for _ in range(2):  # an error must not unbalance the trace stack
        reranker.postprocess_nodes(nodes, query_str=QUERY)
        with pytest.raises(InferenceError):
            make(reported, model=FakeCrossEncoder(fail)).postprocess_nodes(nodes, query_str=QUERY)
    assert len({node["parent"] for node in reported.callbacks.starts}) == 1
