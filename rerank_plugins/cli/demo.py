"""``rerank-plugins demo``: two-stage retrieval on real text, measured."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from textwrap import shorten
from time import perf_counter
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins._lazy import require
from rerank_plugins.cli.options import err, out, printable, progress
from rerank_plugins.config import MINI
from rerank_plugins.errors import RerankError
from rerank_plugins.evaluation.datasets import Passage, RetrievalSet, read_beir
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query
from rerank_plugins.types import FloatArray

CHUNK: Final = 256
"""Passages encoded between two steps of the progress bar."""


class Hit(NamedTuple):
    """A passage, by its position in the corpus, and the score a stage gave it."""

    position: int
    score: float


@dataclass(frozen=True)
class Answer:
    """What the two stages made of one question.

    Attributes:
        id: The question's id.
        question: Its text.
        right: Position of the passage it was written for.
        before: The candidates as the bi-encoder ordered them, with cosines.
        after: The same as the cross-encoder ordered them, with relevance scores.
        search_seconds: Embedding the question and searching the index.
        rerank_seconds: Reranking the candidates.
    """

    id: str
    question: str
    right: int
    before: tuple[Hit, ...]
    after: tuple[Hit, ...]
    search_seconds: float
    rerank_seconds: float

    @property
    def rank_before(self) -> int | None:
        """Where the bi-encoder put the right passage; 1 is the top, None not found."""
        return self._rank(self.before)

    @property
    def rank_after(self) -> int | None:
        """Where the cross-encoder put it."""
        return self._rank(self.after)

    def _rank(self, hits: Sequence[Hit]) -> int | None:
        positions = [hit.position for hit in hits]
        return positions.index(self.right) + 1 if self.right in positions else None


class TwoStages:
    """A bi-encoder index over passages, and a cross-encoder over what it finds."""

    def __init__(
        self, passages: Sequence[Passage], encoder: BiEncoder, reranker: Reranker, depth: int
    ) -> None:
        """Search these passages and rerank the best ``depth`` of them."""
        self.passages = passages
        self._texts = [passage.content for passage in passages]
        self._encoder = encoder
        self._reranker = reranker
        self._depth = min(depth, len(passages))
        self._index: FloatArray = np.zeros((0, 0), dtype=np.float32)

    def build(self, advance: Callable[[int], None]) -> None:
        """Encode all passages, telling ``advance`` how many each step did."""
        parts = []
        for start in range(0, len(self._texts), CHUNK):
            part = self._texts[start : start + CHUNK]
            parts.append(self._encoder.encode_document(part, show_progress=False))
            advance(len(part))
        self._index = np.concatenate(parts)

    def answer(self, identifier: str, question: str, right: int) -> Answer:
        """Search, rerank, and take the time of both."""
        start = perf_counter()
        cosines = (self._encoder.encode_query([question]) @ self._index.T)[0]
        best = np.argsort(-cosines, kind="stable")[: self._depth]
        searched = perf_counter()
        ranking = self._reranker.rank(question, [self._texts[position] for position in best])
        reranked = perf_counter()
        return Answer(
            id=identifier,
            question=question,
            right=right,
            before=tuple(Hit(int(position), float(cosines[position])) for position in best),
            after=tuple(Hit(int(best[one.index]), one.relevance_score) for one in ranking),
            search_seconds=searched - start,
            rerank_seconds=reranked - searched,
        )


TOLERANCE: Final = 1e-6


def through_langchain(
    answer: Answer, passages: Sequence[Passage], settings: Mapping[str, Any]
) -> list[Hit]:
    """Rerank the candidates of an answer through LangChain's compressor."""
    from langchain_core.documents import Document  # noqa: PLC0415  (an optional dependency)

    from rerank_plugins.langchain import CrossEncoderCompressor  # noqa: PLC0415

    documents = [
        Document(page_content=passages[hit.position].content, metadata={"position": hit.position})
        for hit in answer.before
    ]
    reranked = CrossEncoderCompressor(**settings).compress_documents(documents, answer.question)
    return [Hit(one.metadata["position"], one.metadata["relevance_score"]) for one in reranked]


def through_llama_index(
    answer: Answer, passages: Sequence[Passage], settings: Mapping[str, Any]
) -> list[Hit]:
    """Rerank the candidates of an answer through LlamaIndex's postprocessor."""
    from llama_index.core.schema import NodeWithScore, TextNode  # noqa: PLC0415

    from rerank_plugins.llama_index import CrossEncoderPostprocessor  # noqa: PLC0415

    nodes = [
        NodeWithScore(
            node=TextNode(id_=str(hit.position), text=passages[hit.position].content),
            score=hit.score,
        )
        for hit in answer.before
    ]
    reranked = CrossEncoderPostprocessor(**settings).postprocess_nodes(
        nodes, query_str=answer.question
    )
    return [Hit(int(one.node.node_id), one.get_score()) for one in reranked]


def check_agreement(question: str, rankings: Mapping[str, Sequence[Hit]]) -> None:
    """Compare rankings of the same candidates, position by position and score by score.

    Args:
        question: Named in the error.
        rankings: Who ranked -> what came out.

    Raises:
        RerankError: If two of them differ.
    """
    for (name, hits), (other, others) in pairwise(rankings.items()):
        same = len(hits) == len(others) and all(
            one.position == two.position and math.isclose(one.score, two.score, abs_tol=TOLERANCE)
            for one, two in zip(hits, others, strict=True)
        )
        if not same:
            message = (
                f"{name} and {other} rank differently for {question!r}: "
                f"{list(hits[:5])} against {list(others[:5])} ... This is a defect; report it."
            )
            raise RerankError(message)


SHOWN: Final = 3
MEASURES: Final = {
    "nDCG@10": "nDCG@10",
    "MRR@10": "RR@10",
    "right one first": "Success@1",
}


def examples(answers: Sequence[Answer]) -> list[Answer]:
    """Choose one question that reranking helped, one it left alone, one it hurt.

    The first of each kind, in the order they were asked; a kind that did not occur is
    left out.
    """
    chosen: dict[str, Answer] = {}
    for kind in ("raised", "lowered", "kept"):
        for answer in answers:
            if _kind(answer) == kind:
                chosen[kind] = answer
                break
    return list(chosen.values())


def show_examples(answers: Sequence[Answer], passages: Sequence[Passage]) -> None:
    """Show the top passages before and after, for one question of each kind."""
    kinds = [_kind(answer) for answer in answers]
    for answer in examples(answers):
        kind = _kind(answer)
        table = Table(
            title=escape(printable(answer.question)),
            title_justify="left",
            caption=f"The reranker {kind} the right passage (marked *), as it did for "
            f"{kinds.count(kind)} of {len(answers)} questions: "
            f"{_place(answer.rank_before)} -> {_place(answer.rank_after)}.",
            caption_justify="left",
        )
        for name in ("", "rank", "was", "score"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        table.add_column("passage")
        was = {hit.position: rank for rank, hit in enumerate(answer.before, start=1)}
        for stage, hits in (("before", answer.before), ("after", answer.after)):
            for rank, hit in enumerate(hits[:SHOWN], start=1):
                rank_then = str(was[hit.position]) if stage == "after" else ""
                rank_now = f"{_mark(hit, answer)}{rank}"
                passage = _line(passages[hit.position])
                table.add_row(stage, rank_now, rank_then, f"{hit.score:.3f}", passage)
            table.add_section()
        out.print(table)
        out.print()


def show_table(answers: Sequence[Answer], passages: Sequence[Passage], depth: int) -> None:
    """Show quality and latency of one stage against two."""
    qrels = {answer.id: {passages[answer.right].id: 1} for answer in answers}
    before, after = (
        per_query(
            qrels,
            {
                answer.id: [
                    passages[hit.position].id
                    for hit in (answer.before if stage == "before" else answer.after)
                ]
                for answer in answers
            },
            list(MEASURES.values()),
        )
        for stage in ("before", "after")
    )
    table = Table(title=f"{len(answers)} questions, {len(passages):,} passages, depth {depth}")
    for name in ("", "bi-encoder", "two stages", "change", "95% interval"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    verdicts = {}
    for name, measure in MEASURES.items():
        change = paired_bootstrap(before[measure], after[measure])
        verdicts[name] = change.verdict
        table.add_row(
            name,
            f"{before[measure].mean():.3f}",
            f"{after[measure].mean():.3f}",
            f"{change.mean:+.3f}",
            f"{change.low:+.3f} to {change.high:+.3f}",
        )
    alone = median(answer.search_seconds for answer in answers)
    both = median(answer.search_seconds + answer.rerank_seconds for answer in answers)
    table.add_row(
        "median latency",
        f"{alone * 1e3:,.0f} ms",
        f"{both * 1e3:,.0f} ms",
        f"+{(both - alone) * 1e3:,.0f} ms",
    )
    out.print(table)
    found = sum(answer.rank_before is not None for answer in answers)
    out.print(
        f"Two stages against one: {', '.join(f'{name} {text}' for name, text in verdicts.items())}."
        f"\nThe right passage is among the {depth} candidates for {found} of {len(answers)} "
        "questions: what the first stage does not find, the second cannot rank.",
        highlight=False,
    )


def _kind(answer: Answer) -> str:
    before, after = (rank or 0 for rank in (answer.rank_before, answer.rank_after))
    if before == after:
        return "kept"
    return "raised" if after < before else "lowered"


def _place(rank: int | None) -> str:
    return "not found" if rank is None else f"rank {rank}"


def _mark(hit: Hit, answer: Answer) -> str:
    return "* " if hit.position == answer.right else ""


def _line(passage: Passage) -> str:
    line = printable(f"{passage.title}: {passage.text}")
    return escape(shorten(line, width=100, placeholder=" ..."))


DATA: Final = Path(__file__).parents[1] / "data" / "squad-dev"
SEED: Final = 7
NEEDED: Final = {
    "langchain_core": "langchain",
    "llama_index.core": "llama-index",
    "ir_measures": "evaluation",
}


def demo(
    *,
    questions: Annotated[int, typer.Option(min=1, max=300, help="How many to ask.")] = 200,
    depth: Annotated[int, typer.Option(min=1, help="Candidates to rerank.")] = 50,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Ask no more after so many seconds; 0 asks all.")
    ] = 120,
    model: Annotated[
        str, typer.Option(help="The cross-encoder: mini, a Hub name, a folder.")
    ] = MINI,
    encoder: Annotated[
        str, typer.Option(help="The bi-encoder: mini, a Hub name, a folder.")
    ] = MINI,
    max_length: Annotated[int, typer.Option(help="Most tokens a pair may have.")] = 256,
) -> None:
    """Search real text with a bi-encoder, rerank it through both frameworks, and measure."""
    for module, extra in NEEDED.items():
        require(module, extra)
    start = perf_counter()
    data = read_beir(DATA)
    settings: dict[str, Any] = {"model": model, "max_length": max_length}
    stages = TwoStages(data.passages, BiEncoder(encoder), Reranker(**settings).warm_up(), depth)
    answers = _ask(stages, data, questions, time_limit)
    show_examples(answers, data.passages)
    _compare_frameworks(answers, stages, settings)
    show_table(answers, data.passages, depth)
    if len(answers) < questions:
        out.print(
            f"Only {len(answers)} of {questions} questions were asked in {time_limit:.0f} seconds "
            "on this machine; --time-limit 0 asks all.",
            highlight=False,
        )
    if MINI in (model, encoder):
        out.print(
            "The embedded reranker learned from SQuAD's training questions, about other "
            "articles: expect less on texts of another kind.",
            highlight=False,
        )
    out.print(f"Took {perf_counter() - start:.0f} seconds.", highlight=False)


def _ask(stages: TwoStages, data: RetrievalSet, questions: int, time_limit: float) -> list[Answer]:
    """Build the index, then ask random questions until all are asked or time is up."""
    position = {passage.id: number for number, passage in enumerate(data.passages)}
    chosen = random.Random(SEED).sample(list(data.queries), questions)  # noqa: S311  (no secret)
    answers: list[Answer] = []
    err.print(
        f"Indexing {len(data.passages):,} passages, then asking {questions} questions.",
        highlight=False,
    )
    with progress() as bars:
        indexing = bars.add_task("Indexing passages", total=len(data.passages))
        stages.build(lambda done: bars.advance(indexing, done))
        asking = bars.add_task("Asking questions", total=questions)
        start = perf_counter()
        for identifier in chosen:
            right = position[next(iter(data.qrels[identifier]))]
            answers.append(stages.answer(identifier, data.queries[identifier], right))
            bars.advance(asking)
            if 0 < time_limit < perf_counter() - start:
                break
    return answers


def _compare_frameworks(answers: list[Answer], stages: TwoStages, settings: dict[str, Any]) -> None:
    """Rerank the shown questions through both frameworks and check that all agree."""
    shown = examples(answers)
    for answer in shown:
        rankings = {
            "plain Python": answer.after,
            "LangChain": through_langchain(answer, stages.passages, settings),
            "LlamaIndex": through_llama_index(answer, stages.passages, settings),
        }
        check_agreement(answer.question, rankings)
    out.print(
        f"LangChain's compressor and LlamaIndex's postprocessor gave the same order and scores "
        f"for these {len(shown)} questions, {len(shown[0].before)} passages each.\n",
        highlight=False,
    )
