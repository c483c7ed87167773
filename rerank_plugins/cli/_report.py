"""What the demo shows: questions before and after, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from textwrap import shorten
from typing import Final

from rich.markup import escape
from rich.table import Table

from rerank_plugins.cli._console import out, printable
from rerank_plugins.cli._stages import Answer, Hit
from rerank_plugins.evaluation.datasets import Passage
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query

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
