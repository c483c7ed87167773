"""Explanations: what moved, what was read, which sentence did it, and how it looks."""

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
    found = ranking.explain()
    assert [(one.rank_before, one.rank_after, one.moved) for one in found] == [
        (3, 1, 2),
        (2, 2, 0),
        (1, 3, -2),
    ]
    assert [one.document.retrieval_score for one in found] == [0.7, 0.8, 0.9]
    assert [one.document for one in found] == list(ranking)
    assert sum(one.moved for one in found) == 0
    assert found.left_out == 0
    assert found[0].tokens_cut == 0


def test_what_top_n_left_out_is_counted() -> None:
    ranking, backend = ranked(top_n=1)
    assert ranking.explain().left_out == 2
    assert backend.batches


@pytest.mark.parametrize("model", ["real", "fake"])
def test_tokens_cut_are_those_that_the_model_did_not_read(model: str) -> None:
    """A text shortened by the count is read whole; one token longer it is not."""
    backend: object = "mini" if model == "real" else FakeCrossEncoder()
    reranker = Reranker(backend, max_length=32)
    words = ["word"] * 60
    (one,) = reranker.rank(QUERY, [" ".join(words)]).explain()
    assert one.document.truncated
    assert one.tokens_cut
    kept = len(words) - one.tokens_cut  # "word" is one token for both
    (whole, more) = (
        reranker.rank(QUERY, [" ".join(words[:count])])[0] for count in (kept, kept + 1)
    )
    assert not whole.truncated
    assert more.truncated


def test_tokens_between_windows_are_counted() -> None:
    backend = FakeCrossEncoder()
    text = " ".join(f"w{number}." for number in range(200))
    every = Windows(overlap=0, max_windows=None)
    reranker = Reranker(backend, max_length=32, long_documents=every)
    (whole,) = reranker.rank(QUERY, [text]).explain()
    assert whole.tokens_cut == 0
    assert "best part: characters" in reranker.rank(QUERY, [text]).explain().why(whole)
    two = Windows(overlap=0, max_windows=2)
    reranker = Reranker(backend, max_length=32, long_documents=two)
    (thin,) = reranker.rank(QUERY, [text]).explain()
    assert thin.tokens_cut
    assert 150 < thin.tokens_cut < 180  # two of nine windows, one of them short


def test_a_sentence_s_effect_is_the_score_with_it_less_the_score_without() -> None:
    backend = FakeCrossEncoder()
    text = "Clouds are high. goethe wrote faust. Tea is hot."
    reranker = Reranker(backend)
    found = reranker.rank(QUERY, [text, "one sentence"]).explain(highlight=2)
    marks = found[0].highlights
    assert [text[one.start : one.end] for one in marks] == [
        "Clouds are high. ",
        "goethe wrote faust. ",
        "Tea is hot.",
    ]
    scores = reranker.score(
        [(QUERY, text)] + [(QUERY, text[: one.start] + text[one.end :]) for one in marks]
    ).tolist()
    assert [one.effect for one in marks] == pytest.approx([scores[0] - one for one in scores[1:]])
    assert max(marks, key=lambda one: one.effect) is marks[1]
    assert found[1].highlights == ()
    assert len(backend.batches[1]) == 4  # all of them in one batch


def test_highlights_are_those_of_the_part_that_was_read() -> None:
    backend = FakeCrossEncoder()
    text = "A b c. " * 5 + "who wrote faust. " + "A b c. " * 20
    reranker = Reranker(backend, max_length=24)
    (one,) = reranker.rank(QUERY, [text]).explain(highlight=1)
    assert one.highlights[0].start == 0
    assert one.highlights[-1].end == len("A b c. " * 5 + "who wrote faust.")  # 18 words fit
    windows = Reranker(backend, max_length=24, long_documents="windows", prompts={"query": "Q: "})
    (best,) = windows.rank(QUERY, [text]).explain(highlight=1)
    assert best.document.window is not None
    assert (best.highlights[0].start, best.highlights[-1].end) == tuple(best.document.window)


def test_highlights_of_a_model_that_is_gone_are_refused() -> None:
    backend = PinnedCrossEncoder("explained")  # no other open model is the same
    ranking = Reranker(backend).rank(QUERY, TEXTS)
    copy = pickle.loads(pickle.dumps(ranking))  # noqa: S301
    assert len(copy.explain(highlight=1)) == 3
    Reranker(backend).close()
    with pytest.raises(ConfigurationError, match="is not loaded"):
        copy.explain(highlight=1)
    assert [one.rank_after for one in copy.explain()] == [1, 2, 3]
    with pytest.raises(ConfigurationError, match="highlight is -1"):
        ranking.explain(highlight=-1)


def test_nothing_to_explain() -> None:
    found = Reranker(FakeCrossEncoder()).rank(QUERY, []).explain(highlight=3)
    assert len(found) == 0
    assert "rank" in str(found)
    assert "<table>" in found._repr_html_()


def test_a_cascade_says_who_was_sorted_out() -> None:
    model, encoder = FakeCrossEncoder(), BiEncoder(FakeBiEncoder())
    ranking = Cascade([(encoder, 2), Reranker(model)]).rank(QUERY, TEXTS)
    found = ranking.explain(highlight=3)
    assert found.why(found[2]) == "sorted out by an earlier stage"
    assert found[2].highlights == ()
    ranking = Reranker(Cascade([encoder])).rank(QUERY, TEXTS)
    assert [one.tokens_cut for one in ranking.explain()] == [0, 0, 0]
    with pytest.raises(ConfigurationError, match="highlights need"):
        ranking.explain(highlight=1)


def test_a_ranking_still_is_ready_for_json() -> None:
    ranking, _ = ranked()
    assert json.loads(json.dumps(ranking.to_dict()))["documents"][0]["first_stage"] is None


def test_views_for_terminals_and_frames() -> None:
    ranking, _ = ranked(["a [bold]trap[/bold]", *TEXTS])
    found = ranking.explain()
    console = Console(width=160, record=True, file=StringIO())
    console.print(found)
    text = console.export_text()
    assert "a [bold]trap[/bold]" in text
    assert "↑3" in text
    assert "goethe wrote faust" in str(found)
    frame = found.to_pandas()
    assert frame["was"].tolist() == [one.rank_before for one in found]
    scores = [one.document.relevance_score for one in found]
    assert frame["relevance_score"].tolist() == scores
    assert frame["text"].tolist() == [one.document.text for one in found]


class Balance(HTMLParser):
    """Checks that tags are closed in order, and gathers the text outside of the style."""

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


def test_the_page_escapes_what_is_not_ours() -> None:
    evil = '<script>alert("x")</script> & "quotes". Another sentence </td>. faust'
    backend = FakeCrossEncoder()
    query = "<b>faust</b>"
    found = Reranker(backend).rank(query, [evil, evil * 10, "faust"]).explain(highlight=1)
    parser = Balance()
    parser.feed(found._repr_html_())
    assert parser.stack == []
    assert "script" not in parser.names
    assert "b" not in parser.names
    text = "".join(parser.texts)
    assert query in text
    assert evil * 10 in text
