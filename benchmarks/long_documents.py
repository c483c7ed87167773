"""Long documents read whole against cut: ``python -m benchmarks.long_documents ../shared/data``.

SQuAD's paragraphs are joined again: to whole articles, and to sections of 5 to 10 paragraphs. A
document is right for a question if it holds the paragraph that answers it. The bi-encoder finds
the candidates, and the embedded cross-encoder reads their beginning, or all of them in windows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.environment import ROOT, environment
from benchmarks.first_stage import sample, search
from rerank_plugins import Ranking, Reranker
from rerank_plugins.config import MINI
from rerank_plugins.evaluation.datasets import Passage, read_beir
from rerank_plugins.evaluation.metrics import paired_bootstrap, per_query

RESULTS: Final = ROOT / "benchmarks" / "results" / "long_documents.json"
SET: Final = "squad-dev"
MEASURE: Final = "nDCG@10"
SEED: Final = 17
SECTION: Final = (5, 10)
"""Paragraphs of a section, least and most."""

BEST: Final = (1, 2, 3)
"""How many windows a document's score is the mean of."""


class Kind(NamedTuple):
    """How paragraphs are joined.

    Attributes:
        name: What the documents are called.
        depth: How many candidates are reranked; few, since each is long.
        share: Part of the questions that are asked; the cost is that of the documents.
    """

    name: str
    depth: int
    share: float


KINDS: Final = (Kind("sections", 10, 1.0), Kind("articles", 5, 0.4))


class LongDocument(NamedTuple):
    """Some paragraphs of an article, in their order."""

    text: str
    paragraphs: list[str]


def joined(passages: Sequence[Passage], kind: str) -> list[LongDocument]:
    """Join the passages of an article, in file order, to sections or whole."""
    rng = random.Random(SEED)  # noqa: S311  (no secret)
    documents = []
    for title, group in groupby(passages, key=lambda passage: passage.title):
        article = list(group)
        while article:
            size = len(article) if kind == "articles" else rng.randint(*SECTION)
            part, article = article[:size], article[size:]
            text = "\n\n".join([title, *(passage.text for passage in part)])
            documents.append(LongDocument(text, [passage.id for passage in part]))
    return documents


def measure(folder: Path, kind: Kind, questions: int, model: str) -> dict[str, Any]:
    """Compare the ways of reading on one kind of document.

    Args:
        folder: The set.
        kind: How its paragraphs are joined.
        questions: Size of the sample.
        model: The cross-encoder.
    """
    data = read_beir(folder)
    documents = joined(data.passages, kind.name)
    texts = [one.text for one in documents]
    holder = {
        paragraph: str(number)
        for number, one in enumerate(documents)
        for paragraph in one.paragraphs
    }
    asked = sample(data, max(1, round(questions * kind.share)), SEED)
    qrels = {
        one: {holder[paragraph]: grade for paragraph, grade in data.qrels[one].items()}
        for one in asked
    }
    found = search("bi-encoder", texts, [data.queries[one] for one in asked], kind.depth)
    requests = [
        (data.queries[one], [texts[at] for at in row])
        for one, row in zip(asked, found.rows, strict=True)
    ]

    def values(rankings: Sequence[Ranking] | None) -> NDArray[np.float64]:
        orders = (
            [list(range(kind.depth))] * len(asked)
            if rankings is None
            else [[one.index for one in ranking] for ranking in rankings]
        )
        run = {
            one: [str(row[at]) for at in order]
            for one, row, order in zip(asked, found.rows, orders, strict=True)
        }
        return per_query(qrels, run, (MEASURE,))[MEASURE]

    first = values(None)
    right = [
        not qrels[one].keys().isdisjoint(map(str, row))
        for one, row in zip(asked, found.rows, strict=True)
    ]
    # The windows are the same however many count, and are scored once.
    cut = Reranker(model, cache_mb=256).rank_many(requests)
    truncated = values(cut)
    result = {
        "documents": len(documents),
        "questions": len(asked),
        "depth": kind.depth,
        "found": float(np.mean(right)),
        "first_stage": float(first.mean()),
        "truncate": _row(truncated, first, truncated, cut),
    }
    for best in BEST:
        reranker = Reranker(model, cache_mb=256, long_documents="windows", best_windows=best)
        rankings = reranker.rank_many(requests)
        result[f"windows_{best}"] = _row(values(rankings), first, truncated, rankings)
    return result


def _row(
    values: NDArray[np.float64],
    first: NDArray[np.float64],
    truncated: NDArray[np.float64],
    rankings: Sequence[Ranking],
) -> dict[str, Any]:
    over = paired_bootstrap(truncated, values)
    gain = paired_bootstrap(first, values)
    return {
        MEASURE: float(values.mean()),
        "over_first_stage": {**gain._asdict(), "verdict": gain.verdict},
        "over_truncate": {**over._asdict(), "verdict": over.verdict},
        "cut": float(np.mean([one.stats.truncated / one.stats.documents for one in rankings])),
        "pairs": float(np.mean([one.stats.pairs for one in rankings])),
        "tokens": float(np.mean([one.stats.tokens for one in rankings])),
    }


def main(
    sets: Annotated[Path, typer.Argument(help="Folder of the sets.")],
    *,
    questions: Annotated[int, typer.Option(help="Questions on sections.")] = 100,
    model: Annotated[str, typer.Option(help="The cross-encoder.")] = MINI,
    output: Annotated[Path, typer.Option(help="Where the figures go.")] = RESULTS,
) -> None:
    """Measure both kinds of documents and write the figures as JSON."""
    results: dict[str, Any] = {
        "model": model,
        "dtype": Reranker(model).warm_up().engine.identity.dtype,
        "seed": SEED,
        "environment": environment(),
        "kinds": {},
    }
    for kind in KINDS:
        results["kinds"][kind.name] = measure(sets / SET, kind, questions, model)
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
