"""CrossEncoderPostprocessor: scores, settings, inputs and immutability."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)

from rerank_plugins.errors import InferenceError, InvalidInputError, InvalidScoresError
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import ScoreScale

Rerank = Callable[..., list[NodeWithScore]]
Nodes = list[NodeWithScore]

QUERY = "who wrote faust"


def make(**settings: Any) -> CrossEncoderPostprocessor:
    return CrossEncoderPostprocessor(**{"model": FakeCrossEncoder(), **settings})


def wrap(*contents: BaseNode) -> Nodes:
    return [NodeWithScore(node=node, score=0.5) for node in contents]


def snapshot(nodes: Nodes) -> list[dict[str, Any]]:
    return [node.to_dict() for node in nodes]


def ids(nodes: Nodes) -> list[str]:
    return [node.node_id for node in nodes]


def scores(nodes: Nodes) -> list[float | None]:
    return [node.score for node in nodes]


# --- order, scores, ids ---------------------------------------------------------------------


def test_nodes_are_sorted_with_new_scores_and_the_same_ids(rerank: Rerank, nodes: Nodes) -> None:
    out = rerank(make(), nodes, query_str=QUERY)
    assert ids(out) == ["n1", "n2", "n0"]
    assert all(new != old.score for new, old in zip(scores(out), nodes, strict=True))
    assert scores(out) == sorted(scores(out), key=lambda score: -(score or 0.0))


def test_the_score_is_the_relevance_score_of_the_reranker(rerank: Rerank, nodes: Nodes) -> None:
    reranker = make()
    ranking = reranker.reranker().rank(QUERY, [node.text for node in nodes])
    out = rerank(reranker, nodes, query_str=QUERY)
    assert [(node.node_id, node.score) for node in out] == [
        (nodes[ranked.index].node_id, ranked.relevance_score) for ranked in ranking
    ]


def test_query_bundle_and_query_str_give_the_same_result(rerank: Rerank, nodes: Nodes) -> None:
    by_bundle = rerank(make(), nodes, query_bundle=QueryBundle(QUERY))
    assert snapshot(by_bundle) == snapshot(rerank(make(), nodes, query_str=QUERY))


def test_scores_are_python_floats_and_json_serializable(rerank: Rerank, nodes: Nodes) -> None:
    for keep in (False, True):
        for node in rerank(make(keep_retrieval_score=keep), nodes, query_str=QUERY):
            assert type(node.score) is float
            assert json.loads(node.model_dump_json())["score"] == node.score
            assert json.loads(node.to_json())["score"] == node.score


def test_a_numpy_retrieval_score_is_kept_as_a_python_float(rerank: Rerank) -> None:
    np = pytest.importorskip("numpy")
    node = NodeWithScore(node=TextNode(text="faust"))
    node.score = np.float32(0.5)  # as some retrievers return it
    (out,) = rerank(make(keep_retrieval_score=True), [node], query_str=QUERY)
    assert type(out.metadata["retrieval_score"]) is float
    assert json.loads(out.to_json())["node"]["metadata"] == {"retrieval_score": 0.5}


@pytest.mark.parametrize("score", [None, 0.0, -3.0, 1e9])
def test_the_input_score_of_a_node_has_no_effect(
    rerank: Rerank, nodes: Nodes, score: float | None
) -> None:
    plain = rerank(make(), nodes, query_str=QUERY)
    for node in nodes:
        node.score = score
    assert scores(rerank(make(), nodes, query_str=QUERY)) == scores(plain)


def test_ties_keep_the_input_order(rerank: Rerank) -> None:
    nodes = wrap(*[TextNode(text="faust", id_=str(number)) for number in range(20)])
    assert ids(rerank(make(), nodes, query_str=QUERY)) == [str(number) for number in range(20)]


def test_negative_and_zero_scores_are_sorted(rerank: Rerank) -> None:
    value = {"a": -1.0, "b": 0.0, "c": 1.0, "d": -2.0}
    model = FakeCrossEncoder(lambda _, text: value[text])
    nodes = wrap(*[TextNode(text=text, id_=text) for text in value])
    out = rerank(make(model=model, activation="none"), nodes, query_str=QUERY)
    assert [(node.node_id, node.score) for node in out] == [
        ("c", 1.0),
        ("b", 0.0),
        ("a", -1.0),
        ("d", -2.0),
    ]


def test_no_sigmoid_is_applied_to_probabilities(rerank: Rerank, nodes: Nodes) -> None:
    model = FakeCrossEncoder(lambda *_: 0.25, scale=ScoreScale.PROBABILITY)
    assert scores(rerank(make(model=model), nodes, query_str=QUERY)) == [0.25] * 3


def test_a_repeated_node_is_returned_twice(rerank: Rerank) -> None:
    node = TextNode(text="goethe wrote faust", id_="twin")
    nodes = [NodeWithScore(node=node, score=0.9), NodeWithScore(node=node, score=0.1)]
    out = rerank(make(keep_retrieval_score=True), nodes, query_str=QUERY)
    assert ids(out) == ["twin", "twin"]
    assert [node.metadata["retrieval_score"] for node in out] == [0.9, 0.1]


# --- top_n and threshold --------------------------------------------------------------------


def test_top_n_of_none_or_above_the_count_returns_all(rerank: Rerank, nodes: Nodes) -> None:
    everything = snapshot(rerank(make(top_n=None), nodes, query_str=QUERY))
    assert len(everything) == len(nodes)
    assert snapshot(rerank(make(top_n=99), nodes, query_str=QUERY)) == everything


def test_top_n_is_a_prefix(rerank: Rerank, nodes: Nodes) -> None:
    everything = snapshot(rerank(make(), nodes, query_str=QUERY))
    for top_n in (1, 2, 3):
        out = rerank(make(top_n=top_n), nodes, query_str=QUERY)
        assert snapshot(out) == everything[:top_n]


@pytest.mark.parametrize("top_n", [0, -1, True, 2.5, "3"])
def test_an_invalid_top_n_is_refused_at_construction(top_n: object) -> None:
    with pytest.raises(ValueError, match="it must be an integer of at least 1, or None for all"):
        make(top_n=top_n)


def test_a_changed_top_n_takes_effect_and_is_checked(rerank: Rerank, nodes: Nodes) -> None:
    reranker = make(top_n=1)
    reranker.top_n = 2
    assert len(rerank(reranker, nodes, query_str=QUERY)) == 2
    reranker.top_n = 0
    with pytest.raises(ValueError, match="top_n is 0"):
        rerank(reranker, nodes, query_str=QUERY)


def test_the_threshold_applies_to_the_returned_score(rerank: Rerank, nodes: Nodes) -> None:
    best = rerank(make(), nodes, query_str=QUERY)[0].score
    assert ids(rerank(make(score_threshold=best), nodes, query_str=QUERY)) == ["n1"]
    assert rerank(make(score_threshold=1.0), nodes, query_str=QUERY) == []


# --- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"topn": 3}, "Extra inputs are not permitted"),
        ({"max_length": 3}, "at least 16 tokens"),
        ({"max_length": True}, "at least 16 tokens"),
        ({"score_threshold": float("nan")}, "must be a finite number"),
        ({"score_threshold": True}, "must be a finite number"),
        ({"activation": "softmax"}, "allowed are sigmoid, none"),
        ({"dtype": "int3"}, "allowed are auto, float32"),
        ({"metadata_mode": "some"}, "'all', 'embed', 'llm' or 'none'"),
        ({"model": " "}, "a Hub name or a folder"),
    ],
)
def test_invalid_settings_are_refused_at_construction(
    setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**setting)


def test_construction_loads_no_model() -> None:
    CrossEncoderPostprocessor(model="no/such-model")


# --- input ----------------------------------------------------------------------------------


def test_no_nodes_need_no_model_call(rerank: Rerank) -> None:
    model = FakeCrossEncoder()
    assert rerank(make(model=model), [], query_str=QUERY) == []
    assert model.batches == []


def test_a_missing_query_is_refused(rerank: Rerank, nodes: Nodes) -> None:
    for input_nodes in (nodes, []):
        with pytest.raises(ValueError, match="Missing query bundle in extra info") as caught:
            rerank(make(), input_nodes)
        assert isinstance(caught.value, InvalidInputError)


def test_an_empty_query_is_refused(rerank: Rerank, nodes: Nodes) -> None:
    for query in ("", " \n"):
        with pytest.raises(InvalidInputError, match="empty query"):
            rerank(make(), nodes, query_str=query)


def test_two_queries_are_refused(rerank: Rerank, nodes: Nodes) -> None:
    with pytest.raises(ValueError, match="Cannot specify both"):
        rerank(make(), nodes, query_bundle=QueryBundle("a"), query_str="b")


def test_every_kind_of_node_is_scored_by_its_content(rerank: Rerank) -> None:
    model = FakeCrossEncoder()
    contents = [
        TextNode(text="a text", metadata={"title": "A"}),
        ImageNode(image_url="http://localhost/faust.png"),
        ImageNode(text="a caption", image_url="http://localhost/faust.png"),
        IndexNode(text="a summary", index_id="other", obj=TextNode(text="unread")),
        Document(text="a document"),
        Node.from_dict({"text_resource": {"text": "a resource"}, "metadata": {"title": "B"}}),
        Node(image_resource=MediaResource(path=Path("faust.png"))),
        TextNode(text=""),
    ]
    out = rerank(make(model=model, keep_retrieval_score=True), wrap(*contents), query_str=QUERY)
    assert sorted(ids(out)) == sorted(node.id_ for node in contents)
    assert {node.node_id: type(node.node) for node in out} == {
        node.id_: type(node) for node in contents
    }
    scored = {pair.document for batch in model.batches for pair in batch}
    assert scored == {node.get_content(metadata_mode=MetadataMode.EMBED) for node in contents}
    assert {"title: A\n\na text", "a caption", "a summary", "a resource", ""} < {
        text.removeprefix("title: B\n\n") for text in scored
    }


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (MetadataMode.EMBED, "shown: 1\nllm: 2\n\ntext"),
        (MetadataMode.LLM, "shown: 1\nembed: 3\n\ntext"),
        (MetadataMode.ALL, "shown: 1\nllm: 2\nembed: 3\n\ntext"),
        (MetadataMode.NONE, "text"),
    ],
)
def test_the_metadata_mode_selects_the_scored_text(
    rerank: Rerank, mode: MetadataMode, text: str
) -> None:
    model = FakeCrossEncoder()
    node = TextNode(
        text="text",
        metadata={"shown": 1, "llm": 2, "embed": 3},
        excluded_embed_metadata_keys=["embed"],
        excluded_llm_metadata_keys=["llm"],
    )
    rerank(make(model=model, metadata_mode=mode), wrap(node), query_str=QUERY)
    assert model.batches[0][0].document == text


def test_the_default_metadata_mode_is_embed() -> None:
    assert make().metadata_mode is MetadataMode.EMBED


# --- no mutation, idempotence ---------------------------------------------------------------

METADATA = st.dictionaries(
    st.sampled_from(["title", "retrieval_score", "rank", "relevance_score"]),
    st.one_of(st.text(max_size=5), st.integers(), st.none()),
    max_size=3,
)
NODES = st.lists(
    st.builds(
        lambda text, metadata, excluded, score: NodeWithScore(
            node=TextNode(
                text=text,
                metadata=metadata,
                excluded_embed_metadata_keys=excluded,
                relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id="source")},
            ),
            score=score,
        ),
        st.text(max_size=30),
        METADATA,
        st.lists(st.sampled_from(["title", "retrieval_score"]), unique=True),
        st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    ),
    max_size=6,
)
MODES = st.sampled_from(list(MetadataMode))


@given(nodes=NODES, keep=st.booleans(), mode=MODES, top_n=st.one_of(st.none(), st.integers(1, 8)))
def test_inputs_are_not_modified_and_the_result_is_a_subset(
    nodes: Nodes, keep: bool, mode: MetadataMode, top_n: int | None
) -> None:
    before, objects = snapshot(nodes), [(id(node), id(node.node)) for node in nodes]
    reranker = make(keep_retrieval_score=keep, metadata_mode=mode, top_n=top_n)
    out = reranker.postprocess_nodes(nodes, query_str="title a b")
    assert snapshot(nodes) == before
    assert [(id(node), id(node.node)) for node in nodes] == objects
    assert len(out) == min(len(nodes), top_n or len(nodes))
    assert len({node.node_id for node in out}) == len(out)
    assert {node.node_id for node in out} <= {node.node_id for node in nodes}
    assert not {id(node) for node in out} & {id(node) for node in nodes}
    assert asyncio.run(reranker.apostprocess_nodes(nodes, query_str="title a b")) == out


@given(nodes=NODES, mode=MODES)
def test_reranking_is_idempotent(nodes: Nodes, mode: MetadataMode) -> None:
    for keep in (False, True):
        reranker = make(keep_retrieval_score=keep, metadata_mode=mode)
        once = reranker.postprocess_nodes(nodes, query_str="title a b")
        twice = reranker.postprocess_nodes(once, query_str="title a b")
        assert [(node.node_id, node.score) for node in twice] == [
            (node.node_id, node.score) for node in once
        ]


def test_modifying_the_result_does_not_modify_the_input(rerank: Rerank, nodes: Nodes) -> None:
    before = snapshot(nodes)
    for node in rerank(make(keep_retrieval_score=True), nodes, query_str=QUERY):
        node.score = 7.0
        node.node.metadata["new"] = 1
        node.node.excluded_llm_metadata_keys.append("new")
        node.node.excluded_embed_metadata_keys.append("new")
    assert snapshot(nodes) == before


def test_without_a_kept_score_nodes_are_not_copied(rerank: Rerank, nodes: Nodes) -> None:
    out = rerank(make(), nodes, query_str=QUERY)
    assert {id(node.node) for node in out} == {id(node.node) for node in nodes}


# --- the retrieval score --------------------------------------------------------------------


def test_the_retrieval_score_is_not_part_of_the_text(rerank: Rerank, nodes: Nodes) -> None:
    input_scores = {node.node_id: node.score for node in nodes}
    for node in rerank(make(keep_retrieval_score=True), nodes, query_str=QUERY):
        assert node.metadata["retrieval_score"] == input_scores[node.node_id]
        for mode in (MetadataMode.EMBED, MetadataMode.LLM, MetadataMode.NONE):
            assert "retrieval_score" not in node.get_content(metadata_mode=mode)


def test_by_default_the_metadata_is_unchanged(rerank: Rerank, nodes: Nodes) -> None:
    assert all(node.metadata == {} for node in rerank(make(), nodes, query_str=QUERY))


def test_a_stale_retrieval_score_is_overwritten_and_hidden_once(rerank: Rerank) -> None:
    node = TextNode(text="faust", metadata={"retrieval_score": "stale"})
    reranker = make(keep_retrieval_score=True)
    (once,) = rerank(reranker, [NodeWithScore(node=node, score=0.25)], query_str=QUERY)
    assert once.metadata == {"retrieval_score": 0.25}
    (twice,) = rerank(reranker, [once], query_str=QUERY)
    assert twice.metadata == {"retrieval_score": once.score}
    assert twice.node.excluded_embed_metadata_keys == ["retrieval_score"]
    assert twice.node.excluded_llm_metadata_keys == ["retrieval_score"]


def test_a_node_without_a_score_has_retrieval_score_none(rerank: Rerank) -> None:
    (out,) = rerank(
        make(keep_retrieval_score=True), [NodeWithScore(node=TextNode(text="a"))], query_str="a"
    )
    assert out.metadata == {"retrieval_score": None}


# --- failure, concurrency -------------------------------------------------------------------


def test_a_nan_score_is_an_error(rerank: Rerank, nodes: Nodes) -> None:
    model = FakeCrossEncoder(lambda *_: float("nan"))
    with pytest.raises(InvalidScoresError):
        rerank(make(model=model), nodes, query_str=QUERY)


def test_a_failing_model_is_an_inference_error_with_its_cause(rerank: Rerank, nodes: Nodes) -> None:
    def fail(*_: str) -> float:
        message = "boom"
        raise RuntimeError(message)

    with pytest.raises(InferenceError, match="boom") as caught:
        rerank(make(model=FakeCrossEncoder(fail)), nodes, query_str=QUERY)
    assert isinstance(caught.value.__cause__, RuntimeError)


async def test_the_event_loop_is_not_blocked_while_the_model_runs(nodes: Nodes) -> None:
    proceed = threading.Event()

    def wait(_: str, text: str) -> float:
        assert proceed.wait(timeout=20)
        return float(len(text))

    pending = asyncio.create_task(
        make(model=FakeCrossEncoder(wait)).apostprocess_nodes(nodes, query_str=QUERY)
    )
    await asyncio.sleep(0.05)
    assert not pending.done()
    proceed.set()
    assert len(await pending) == len(nodes)


async def test_concurrent_reranks_do_not_mix_queries() -> None:
    reranker = make()
    words = [f"word{number}" for number in range(12)]
    nodes = wrap(*[TextNode(text=word, id_=word) for word in words])
    results = await asyncio.gather(
        *[reranker.apostprocess_nodes(nodes, query_str=word) for word in words]
    )
    assert [out[0].node_id for out in results] == words
