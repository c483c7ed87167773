"""One query with its documents: checked, merged into unique pairs, and ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rerank_plugins.core.ordering import activate, check_scores, order
from rerank_plugins.core.types import RankedDocument, Ranking, RankingStats, TextPair
from rerank_plugins.errors import InvalidInputError

if TYPE_CHECKING:
    from rerank_plugins.core.batching.computed import Computed
    from rerank_plugins.core.config import RerankConfig
    from rerank_plugins.core.protocols import Backend, CrossEncoderBackend
    from rerank_plugins.core.types import ModelIdentity, ScoreScale


def check_query(query: object) -> str:
    """Return the query if it is text with something in it.

    Raises:
        InvalidInputError: If it is not a string, or empty.
    """
    if not isinstance(query, str):
        message = f"the query is {type(query).__name__}; it must be a string."
        raise InvalidInputError(message)
    if not query.strip():
        message = f"the query is {query!r}; nothing can be relevant to an empty query. Pass text."
        raise InvalidInputError(message)
    return query


def check_documents(documents: object) -> list[str]:
    """Return the documents as a list if each is a string; empty strings are allowed.

    Raises:
        InvalidInputError: If ``documents`` is one string or no iterable at all, or one of
            them is not a string.
    """
    if isinstance(documents, (str, bytes)):
        message = "documents is one string; pass a list of strings, even for one document."
        raise InvalidInputError(message)
    if not isinstance(documents, Iterable):
        message = f"documents is {type(documents).__name__}; pass a list of strings."
        raise InvalidInputError(message)
    texts: list[str] = []
    for position, text in enumerate(documents):
        if not isinstance(text, str):
            message = (
                f"document {position} is {type(text).__name__}; each must be a string. "
                "Pass the text, for example page_content or get_content()."
            )
            raise InvalidInputError(message)
        texts.append(text)
    return texts


def check_two(pair: object, position: int, shape: str) -> tuple[Any, Any]:
    """Return the two parts of an element of a list of pairs.

    Args:
        pair: The element.
        position: Where it stands in the list, for the message.
        shape: What it should be, for the message.

    Raises:
        InvalidInputError: If it is not a sequence of two; a string of two letters is not.
    """
    if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:  # noqa: PLR2004
        message = f"element {position} is {type(pair).__name__}; each must be a tuple {shape}."
        raise InvalidInputError(message)
    return pair[0], pair[1]


class RankRequest:
    """A query and its documents on their way to a :class:`Ranking`.

    Attributes:
        pairs: The unique text pairs to score; a text that occurs twice is scored once.
    """

    def __init__(self, query: str, documents: Sequence[str]) -> None:
        """Check the texts and merge identical ones.

        Raises:
            InvalidInputError: If a text cannot be scored.
        """
        self.query = check_query(query)
        self.texts = check_documents(documents)
        position = {text: number for number, text in enumerate(dict.fromkeys(self.texts))}
        self.pairs = [TextPair(query, text) for text in position]
        self._pair_of = np.array([position[text] for text in self.texts], dtype=np.intp)

    def empty(self) -> Ranking:
        """Return the ranking of no documents, for which no model is needed."""
        return Ranking(self.query, (), None, RankingStats())

    def ranking(
        self, computed: Computed, model: ModelIdentity, scale: ScoreScale, config: RerankConfig
    ) -> Ranking:
        """Make the ranking from the computed scores of :attr:`pairs`.

        Raises:
            InvalidScoresError: If a score is missing or not finite.
        """
        scores = check_scores(computed.values, len(self.pairs))[self._pair_of]
        truncated = computed.truncated[self._pair_of]
        relevance = activate(scores, config.activation, scale)
        ranked = [
            RankedDocument(
                index=int(index),
                relevance_score=float(relevance[index]),
                raw_score=float(scores[index]),
                text=self.texts[index],
                truncated=bool(truncated[index]),
            )
            for index in order(scores)
        ]
        if config.score_threshold is not None:
            ranked = [one for one in ranked if one.relevance_score >= config.score_threshold]
        return Ranking(
            query=self.query,
            documents=tuple(ranked[: config.top_n]),
            model=model,
            stats=RankingStats(
                documents=len(self.texts),
                pairs=len(self.pairs),
                tokens=int(computed.tokens.sum()),
                truncated=int(truncated.sum()),
                batches=computed.batches,
                cache_hits=computed.cache_hits,
                disk_hits=computed.disk_hits,
                queue_s=computed.queue_s,
                compute_s=computed.compute_s,
            ),
        )


def check_pairs(pairs: Iterable[object]) -> list[TextPair]:
    """Return text pairs as such if each is a query and a document.

    Raises:
        InvalidInputError: If one is not.
    """
    checked = []
    for position, pair in enumerate(pairs):
        query, document = check_two(pair, position, "(query, document)")
        checked.append(TextPair(check_query(query), check_documents([document])[0]))
    return checked


def rankings_of(
    requests: Sequence[RankRequest],
    computed: Computed,
    backend: Backend[TextPair],
    config: RerankConfig,
) -> list[Ranking]:
    """Give each request its share of pairs that were computed together.

    Raises:
        InvalidScoresError: If a score is missing or not finite.
    """
    scale = cast("CrossEncoderBackend", backend).scale
    rankings = []
    start = 0
    for request in requests:
        share = slice(start, start + len(request.pairs))
        start = share.stop
        if request.pairs:
            part = computed.part(share)
            rankings.append(request.ranking(part, backend.identity, scale, config))
        else:
            rankings.append(request.empty())
    return rankings
