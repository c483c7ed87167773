"""A ranking on the console: its documents, and what there is to say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rerank_plugins import RankedDocument, Ranking
from rerank_plugins.cli._console import out, printable
from rerank_plugins.cli._inputs import Item
from rerank_plugins.core.metadata import WINDOW, notes, shown
from rerank_plugins.core.policy import LongDocuments


def show_document(
    rank: int, document: RankedDocument, ranking: Ranking, item: Item, *, as_json: bool
) -> None:
    """Print a document of a ranking, as a line of text or of JSON."""
    score = shown(document)
    if as_json:
        fields = {
            **item.fields,
            "index": document.index,
            "relevance_score": score,
            "raw_score": document.raw_score if document.scored else None,
            "scored": document.scored,
            "truncated": document.truncated,
            "window": notes(ranking, document, item.text).get(WINDOW),
        }
        out.out(json.dumps(fields), highlight=False)
        return
    name = f"{printable(item.name)}: " if item.name else ""
    number = "   -  " if score is None else f"{score:.4f}"
    out.print(
        f"{rank:>3}  {number}  {name}{printable(item.text)}",
        markup=False,
        highlight=False,
        # Files and pipes get the whole text, a terminal gets one line.
        soft_wrap=not out.is_terminal,
        no_wrap=True,
        overflow="ellipsis",
    )


def remarks(
    ranking: Ranking, deadline_ms: float | None, long_documents: LongDocuments
) -> Iterator[str]:
    """Yield what the ranking does not show by itself, a sentence each."""
    stats = ranking.stats
    if not stats.documents:
        yield "no documents were given."
    if ranking.status == "failed":
        yield f"scoring failed, the documents keep their order: {ranking.error}"
    elif ranking.status == "partial":
        yield (
            f"{stats.documents - stats.scored} of {stats.documents} documents were not scored "
            f"within {deadline_ms:g} ms; they keep their order behind the others."
        )
    if stats.truncated and long_documents == "windows":
        yield (
            f"{stats.truncated} of {stats.documents} documents have more windows than are read; "
            "--max-windows reads more."
        )
    elif stats.truncated:
        yield (
            f"{stats.truncated} of {stats.documents} documents are longer than the model's "
            "reach; only their beginning was read. --long-documents windows reads them whole."
        )
