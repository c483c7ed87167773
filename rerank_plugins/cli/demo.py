"""``rerank-plugins demo``: two-stage retrieval on a shipped corpus, with its measurements."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from statistics import median
from textwrap import shorten
from time import perf_counter
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import typer
from rich.markup import escape
from rich.table import Column, Table

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins._lazy import require
from rerank_plugins.cli.options import err, out, printable, progress
from rerank_plugins.config import MINI
from rerank_plugins.errors import RerankError
from rerank_plugins.evaluation.datasets import Passage, RetrievalSet, read_beir
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query

DATA: Final = Path(__file__).parents[1] / "data" / "squad-dev"
REQUIRED: Final = {
    "langchain_core": "langchain",
    "llama_index.core": "llama-index",
    "ir_measures": "evaluation",
}
"""Modules that the demo imports, and the extras that install them."""

MEASURES: Final = {"nDCG@10": "nDCG@10", "MRR@10": "RR@10", "relevant passage first": "Success@1"}


def demo(
    *,
    questions: Annotated[
        int, typer.Option(min=1, max=300, help="Number of questions to ask.")
    ] = 200,
    depth: Annotated[
        int, typer.Option(min=1, help="Number of candidates to rerank per question.")
    ] = 50,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Seconds after which to stop asking; 0 asks all.")
    ] = 120,
    model: Annotated[str, typer.Option(help="Cross-encoder: mini, a Hub name or a folder.")] = MINI,
    encoder: Annotated[str, typer.Option(help="Bi-encoder: mini, a Hub name or a folder.")] = MINI,
    max_length: Annotated[int, typer.Option(help="Maximum number of tokens per pair.")] = 256,
) -> None:
    """Search real text with a bi-encoder, rerank it through both frameworks, and measure."""
    for module, extra in REQUIRED.items():
        require(module, extra)
    start = perf_counter()
    data = read_beir(DATA)
    settings: dict[str, Any] = {"model": model, "max_length": max_length}
    passages = data.passages
    err.print(f"Indexing {len(passages):,} passages, then asking {questions} questions.")
    search = TwoStageSearch(passages, BiEncoder(encoder), Reranker(**settings).warm_up(), depth)
    results = _ask(search, data, questions, time_limit)
    show_examples(results, passages)
    _compare_frameworks(results, passages, settings)
    show_measurements(results, passages, depth)
    if len(results) < questions:
        out.print(
            f"Only {len(results)} of {questions} questions were asked in {time_limit:.0f} "
            "seconds; --time-limit 0 asks all."
        )
    if MINI in (model, encoder):
        out.print(
            "The embedded reranker was trained on SQuAD questions about other articles; expect "
            "smaller gains on other kinds of text."
        )
    out.print(f"Took {perf_counter() - start:.0f} seconds.")


class Hit(NamedTuple):
    """A passage, by its position in the corpus, and its score in one stage."""

    position: int
    score: float


@dataclass(frozen=True)
class QuestionResult:
    """Rankings of one question by both stages, and the seconds that they took."""

    id: str
    question: str
    relevant: int  # position of the passage that the question was written for
    before: Sequence[Hit]  # of the bi-encoder, with cosines
    after: Sequence[Hit]  # of the cross-encoder, with relevance scores
    search_seconds: float
    rerank_seconds: float

    @property
    def rank_before(self) -> int | None:
        """Rank of the relevant passage by the bi-encoder, from 1; None if it was not found."""
        return self._rank(self.before)

    @property
    def rank_after(self) -> int | None:
        """Rank of the relevant passage by the cross-encoder; None if it was not found."""
        return self._rank(self.after)

    @property
    def effect(self) -> str:
        """Effect of reranking on the relevant passage: "raised", "lowered" or "kept"."""
        before, after = self.rank_before or 0, self.rank_after or 0
        if before == after:
            return "kept"
        return "raised" if after < before else "lowered"

    def _rank(self, hits: Sequence[Hit]) -> int | None:
        ranks = (rank for rank, hit in enumerate(hits, 1) if hit.position == self.relevant)
        return next(ranks, None)


class TwoStageSearch:
    """Search by a bi-encoder, and reranking of the best passages by a cross-encoder."""

    def __init__(
        self, passages: Sequence[Passage], encoder: BiEncoder, reranker: Reranker, depth: int
    ) -> None:
        """Encode the passages, of which the ``depth`` best are reranked for each question."""
        self._texts = [passage.content for passage in passages]
        self._encoder = encoder
        self._reranker = reranker
        self._depth = depth
        self._index = encoder.encode_document(self._texts)

    def ask(self, name: str, question: str, relevant: int) -> QuestionResult:
        """Search and rerank, and measure the time of both."""
        start = perf_counter()
        cosines = self._index @ self._encoder.encode_query(question)
        best = np.argsort(-cosines, kind="stable")[: self._depth].tolist()
        searched = perf_counter()
        ranking = self._reranker.rank(question, [self._texts[position] for position in best])
        reranked = perf_counter()
        return QuestionResult(
            name,
            question,
            relevant,
            before=[Hit(position, float(cosines[position])) for position in best],
            after=[Hit(best[document.index], document.relevance_score) for document in ranking],
            search_seconds=searched - start,
            rerank_seconds=reranked - searched,
        )


def _ask(
    search: TwoStageSearch, data: RetrievalSet, questions: int, time_limit: float
) -> list[QuestionResult]:
    """Ask random questions until all are asked or the time is over."""
    positions = {passage.id: position for position, passage in enumerate(data.passages)}
    names = random.Random(7).sample(list(data.queries), questions)  # noqa: S311  (no secret)
    results: list[QuestionResult] = []
    start = perf_counter()
    with progress() as bars:
        for name in bars.track(names, description="Asking questions"):
            relevant = positions[next(iter(data.qrels[name]))]
            results.append(search.ask(name, data.queries[name], relevant))
            if 0 < time_limit < perf_counter() - start:
                break
    return results


def choose_examples(results: Sequence[QuestionResult]) -> list[QuestionResult]:
    """Return the first result whose relevant passage was raised, lowered and kept, if any."""
    first = {result.effect: result for result in reversed(results)}
    return [first[effect] for effect in ("raised", "lowered", "kept") if effect in first]


def show_examples(results: Sequence[QuestionResult], passages: Sequence[Passage]) -> None:
    """Show the top passages before and after reranking, for one question of each effect."""
    effects = [result.effect for result in results]
    for result in choose_examples(results):
        ranks = [
            "not found" if rank is None else f"rank {rank}"
            for rank in (result.rank_before, result.rank_after)
        ]
        table = Table(
            "",
            *(Column(name, justify="right", no_wrap=True) for name in ("rank", "was", "score")),
            "passage",
            title=escape(printable(result.question)),
            title_justify="left",
            caption=f"The reranker {result.effect} the relevant passage (marked *), as for "
            f"{effects.count(result.effect)} of {len(results)} questions: {' -> '.join(ranks)}.",
            caption_justify="left",
        )
        ranks_before = {hit.position: str(rank) for rank, hit in enumerate(result.before, start=1)}
        for stage, hits in (("before", result.before), ("after", result.after)):
            for rank, hit in enumerate(hits[:3], start=1):
                passage = passages[hit.position]
                line = printable(f"{passage.title}: {passage.text}")
                table.add_row(
                    stage,
                    f"{'* ' if hit.position == result.relevant else ''}{rank}",
                    ranks_before[hit.position] if stage == "after" else "",
                    f"{hit.score:.3f}",
                    escape(shorten(line, width=100, placeholder=" ...")),
                )
            table.add_section()
        out.print(table)
        out.print()


def show_measurements(
    results: Sequence[QuestionResult], passages: Sequence[Passage], depth: int
) -> None:
    """Show the quality and the latency of the bi-encoder alone and of both stages."""
    qrels = {result.id: {passages[result.relevant].id: 1} for result in results}
    before, after = (
        per_query(
            qrels,
            {result.id: [passages[hit.position].id for hit in hits(result)] for result in results},
            list(MEASURES.values()),
        )
        for hits in (attrgetter("before"), attrgetter("after"))
    )
    names = ("bi-encoder", "two stages", "change", "95% interval")
    table = Table(
        "",
        *(Column(name, justify="right", no_wrap=True) for name in names),
        title=f"{len(results)} questions, {len(passages):,} passages, depth {depth}",
    )
    verdicts = []
    for name, key in MEASURES.items():
        change = paired_bootstrap(before[key], after[key])
        verdicts.append(f"{name} {change.verdict}")
        table.add_row(
            name,
            f"{before[key].mean():.3f}",
            f"{after[key].mean():.3f}",
            f"{change.mean:+.3f}",
            f"{change.low:+.3f} to {change.high:+.3f}",
        )
    search_s = median(result.search_seconds for result in results)
    total_s = median(result.search_seconds + result.rerank_seconds for result in results)
    table.add_row(
        "median latency",
        f"{search_s * 1e3:,.0f} ms",
        f"{total_s * 1e3:,.0f} ms",
        f"+{(total_s - search_s) * 1e3:,.0f} ms",
    )
    out.print(table)
    retrieved = sum(result.rank_before is not None for result in results)
    out.print(
        f"Two stages compared with the bi-encoder alone: {', '.join(verdicts)}.\n"
        f"The relevant passage is among the {depth} candidates for {retrieved} of {len(results)} "
        "questions; the cross-encoder cannot rank a passage that the bi-encoder did not find."
    )


def _compare_frameworks(
    results: Sequence[QuestionResult], passages: Sequence[Passage], settings: Mapping[str, Any]
) -> None:
    """Rerank the shown questions through both frameworks and check that all agree."""
    examples = choose_examples(results)
    for result in examples:
        rankings = {
            "plain Python": result.after,
            "LangChain": rerank_by_langchain(result, passages, settings),
            "LlamaIndex": rerank_by_llama_index(result, passages, settings),
        }
        check_agreement(result.question, rankings)
    out.print(
        "LangChain's compressor and LlamaIndex's postprocessor returned the same order and scores "
        f"for these {len(examples)} questions, {len(examples[0].before)} passages each.\n"
    )


def rerank_by_langchain(
    result: QuestionResult, passages: Sequence[Passage], settings: Mapping[str, Any]
) -> list[Hit]:
    """Rerank the candidates of a question by LangChain's compressor."""
    from langchain_core.documents import Document  # noqa: PLC0415  (an optional dependency)

    from rerank_plugins.langchain import CrossEncoderCompressor  # noqa: PLC0415

    documents = [
        Document(page_content=passages[hit.position].content, metadata={"position": hit.position})
        for hit in result.before
    ]
    reranked = CrossEncoderCompressor(**settings).compress_documents(documents, result.question)
    return [
        Hit(document.metadata["position"], document.metadata["relevance_score"])
        for document in reranked
    ]


def rerank_by_llama_index(
    result: QuestionResult, passages: Sequence[Passage], settings: Mapping[str, Any]
) -> list[Hit]:
    """Rerank the candidates of a question by LlamaIndex's postprocessor."""
    from llama_index.core.schema import NodeWithScore, TextNode  # noqa: PLC0415

    from rerank_plugins.llama_index import CrossEncoderPostprocessor  # noqa: PLC0415

    nodes = [
        NodeWithScore(
            node=TextNode(id_=str(hit.position), text=passages[hit.position].content),
            score=hit.score,
        )
        for hit in result.before
    ]
    reranked = CrossEncoderPostprocessor(**settings).postprocess_nodes(
        nodes, query_str=result.question
    )
    return [Hit(int(node.node.node_id), node.get_score()) for node in reranked]


def check_agreement(question: str, rankings: Mapping[str, Sequence[Hit]]) -> None:
    """Raise a RerankError if rankings of the same candidates differ in order or score."""
    for (first, first_hits), (second, second_hits) in pairwise(rankings.items()):
        first_array, second_array = np.array(first_hits), np.array(second_hits)
        if first_array.shape != second_array.shape or not np.allclose(
            first_array, second_array, rtol=0, atol=1e-6
        ):
            message = (
                f"{first} and {second} rank differently for {question!r}: "
                f"{list(first_hits[:5])} and {list(second_hits[:5])} ... This is a bug; please "
                "report it."
            )
            raise RerankError(message)
