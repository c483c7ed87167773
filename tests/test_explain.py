"""Explanations: movements, scored tokens, sentence effects and views."""

from __future__ import annotations

import json
import pickle
from html.parser import HTMLParser
from io import StringIO

import pytest
from rich.console import Console

from rerank_plugins import BiEncoder, Cascade, Ranking, Reranker, Windows
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from tests.helpers.engines import PinnedCrossEncoder

QUERY = "who wrote faust"
TEXTS = ["it rains", "the opera faust", "goethe wrote faust"]


def ranked(texts: list[str] = TEXTS, **options: object) -> tuple[Ranking, FakeCrossEncoder]:
    backend = FakeCrossEncoder()
    return Reranker(backend, **options).rank(QUERY, texts), backend  # type: ignore[arg-type]


def test_ranks_before_and_after() -> None:
    backend = FakeCrossEncoder()
    ranking = Reranker(backend).rank(QUERY, TEXTS, retrieval_scores=[0.9, 0.8, 0.7])
    explanation = ranking.explain()
    ranks = [(item.rank_before, item.rank_after, item.moved) for item in explanation]
    assert ranks == [(3, 1, 2), (2, 2, 0), (1, 3, -2)]
    assert [item.document.retrieval_score for item in explanation] == [0.7, 0.8, 0.9]
    assert [item.document for item in explanation] == list(ranking)
    assert sum(item.moved for item in explanation) == 0
    assert explanation.left_out == 0
    assert explanation[0].truncated_tokens == 0


def test_documents_removed_by_top_n_are_counted() -> None:
    ranking, backend = ranked(top_n=1)
    assert ranking.explain().left_out == 2
    assert backend.batches


@pytest.mark.parametrize("model", ["real", "fake"])
def test_truncated_tokens_are_those_that_were_not_scored(model: str) -> None:
    """A text shortened by the count is scored completely; one token longer it is not."""
    backend: object = "mini" if model == "real" else FakeCrossEncoder()
    reranker = Reranker(backend, max_length=32)
    words = ["word"] * 60
    (explained,) = reranker.rank(QUERY, [" ".join(words)]).explain()
    assert explained.document.truncated
    assert explained.truncated_tokens
    kept = len(words) - explained.truncated_tokens  # "word" is one token for both models
    complete, longer = (
        reranker.rank(QUERY, [" ".join(words[:count])])[0] for count in (kept, kept + 1)
    )
    assert not complete.truncated
    assert longer.truncated


def test_tokens_between_windows_are_counted() -> None:
    backend = FakeCrossEncoder()
    text = " ".join(f"w{number}." for number in range(200))
    windows = Windows(overlap=0, max_windows=None)
    reranker = Reranker(backend, max_length=32, long_documents=windows)
    (complete,) = reranker.rank(QUERY, [text]).explain()
    assert complete.truncated_tokens == 0
    assert "best window: characters" in reranker.rank(QUERY, [text]).explain().note(complete)
    sampling = Reranker(backend, max_length=32, long_documents=Windows(overlap=0, max_windows=2))
    (sampled,) = sampling.rank(QUERY, [text]).explain()
    assert sampled.truncated_tokens
    assert 150 < sampled.truncated_tokens < 180  # two of nine windows, one of them short


def test_the_effect_of_a_sentence_is_the_score_with_it_minus_the_score_without() -> None:
    backend = FakeCrossEncoder()
    text = "Clouds are high. goethe wrote faust. Tea is hot."
    reranker = Reranker(backend, activation="none")
    explanation = reranker.rank(QUERY, [text, "one sentence"]).explain(highlight=2)
    marks = explanation[0].highlights
    assert [text[mark.start : mark.end] for mark in marks] == [
        "Clouds are high. ",
        "goethe wrote faust. ",
        "Tea is hot.",
    ]
    scores = reranker.score(
        [(QUERY, text)] + [(QUERY, text[: mark.start] + text[mark.end :]) for mark in marks]
    ).tolist()
    effects = [scores[0] - score for score in scores[1:]]
    assert [mark.effect for mark in marks] == pytest.approx(effects)
    assert max(marks, key=lambda mark: mark.effect) is marks[1]
    assert explanation[1].highlights == ()
    assert len(backend.batches[1]) == 4  # all of them in one batch


def test_highlights_are_in_the_scored_part() -> None:
    backend = FakeCrossEncoder()
    text = "A b c. " * 5 + "who wrote faust. " + "A b c. " * 20
    reranker = Reranker(backend, max_length=24)
    (explained,) = reranker.rank(QUERY, [text]).explain(highlight=1)
    assert explained.highlights[0].start == 0
    assert explained.highlights[-1].end == len("A b c. " * 5 + "who wrote faust.")  # 18 words fit
    windows = Reranker(backend, max_length=24, long_documents="windows", prompts={"query": "Q: "})
    (best,) = windows.rank(QUERY, [text]).explain(highlight=1)
    assert best.document.window is not None
    assert (best.highlights[0].start, best.highlights[-1].end) == tuple(best.document.window)


def test_highlights_need_the_loaded_model() -> None:
    backend = PinnedCrossEncoder("explained")  # not shared with other tests
    ranking = Reranker(backend).rank(QUERY, TEXTS)
    copy = pickle.loads(pickle.dumps(ranking))  # noqa: S301
    assert len(copy.explain(highlight=1)) == 3
    Reranker(backend).close()
    with pytest.raises(ConfigurationError, match="is not loaded"):
        copy.explain(highlight=1)
    assert [explained.rank_after for explained in copy.explain()] == [1, 2, 3]
    with pytest.raises(ConfigurationError, match="highlight is -1"):
        ranking.explain(highlight=-1)


def test_an_empty_ranking_is_explained() -> None:
    explanation = Reranker(FakeCrossEncoder()).rank(QUERY, []).explain(highlight=3)
    assert len(explanation) == 0
    assert "rank" in str(explanation)
    assert "<table>" in explanation._repr_html_()


def test_documents_removed_by_a_stage_of_a_cascade_are_explained() -> None:
    model, encoder = FakeCrossEncoder(), BiEncoder(FakeBiEncoder())
    ranking = Cascade([(encoder, 2), Reranker(model)]).rank(QUERY, TEXTS)
    explanation = ranking.explain(highlight=3)
    assert explanation.note(explanation[2]) == "not kept by an earlier stage"
    assert explanation[2].highlights == ()
    ranking = Reranker(Cascade([encoder])).rank(QUERY, TEXTS)
    assert [explained.truncated_tokens for explained in ranking.explain()] == [0, 0, 0]
    with pytest.raises(ConfigurationError, match="highlights need"):
        ranking.explain(highlight=1)


def test_a_ranking_can_be_converted_to_json() -> None:
    ranking, _ = ranked()
    assert json.loads(json.dumps(ranking.to_dict()))["documents"][0]["retrieval_score"] is None


def test_views_for_terminals_and_frames() -> None:
    ranking, _ = ranked(["a [bold]trap[/bold]", *TEXTS])
    explanation = ranking.explain()
    console = Console(width=160, record=True, file=StringIO())
    console.print(explanation)
    text = console.export_text()
    assert "a [bold]trap[/bold]" in text
    assert "↑3" in text
    assert "goethe wrote faust" in str(explanation)
    frame = explanation.to_pandas()
    assert frame["was"].tolist() == [explained.rank_before for explained in explanation]
    scores = [explained.document.relevance_score for explained in explanation]
    assert frame["relevance_score"].tolist() == scores
    assert frame["text"].tolist() == [explained.document.text for explained in explanation]


class TagChecker(HTMLParser):
    """Checks that tags are closed in order, and collects the text outside of the style."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.names: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.stack.append(tag)
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack[-1] != "style":
            self.texts.append(data)


def test_html_escapes_texts() -> None:
    evil = '<script>alert("x")</script> & "quotes". Another sentence </td>. faust'
    backend = FakeCrossEncoder()
    query = "<b>faust</b>"
    explanation = Reranker(backend).rank(query, [evil, evil * 10, "faust"]).explain(highlight=1)
    parser = TagChecker()
    parser.feed(explanation._repr_html_())
    assert parser.stack == []
    assert "script" not in parser.names
    assert "b" not in parser.names
    text = "".join(parser.texts)
    assert query in text
    assert evil * 10 in text
