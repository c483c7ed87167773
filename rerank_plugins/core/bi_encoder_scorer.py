"""A bi-encoder as a scorer of tasks, with or without stored embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

from numpy.typing import ArrayLike

from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.closing import Closing
from rerank_plugins.core.comparing import Compared
from rerank_plugins.core.scored import Scored, Task
from rerank_plugins.errors import ConfigurationError, InvalidInputError

Stored = Mapping[str, ArrayLike] | Callable[[list[str]], Sequence[ArrayLike | None]]
"""Embeddings by text, or what looks them up: one a text, None where there is none."""


class BiEncoderScorer(Closing):
    """Scores documents by the cosine of their embedding and the query's.

    Only what is not stored is embedded; identical texts are embedded once for all tasks.

    Example:
        >>> from rerank_plugins import BiEncoder, BiEncoderScorer, Reranker
        >>> texts = ["It rains.", "Goethe wrote Faust."]
        >>> encoder = BiEncoder()
        >>> stored = dict(zip(texts, encoder.encode_documents(texts)))
        >>> ranking = Reranker(BiEncoderScorer(encoder, stored)).rank("Who wrote Faust?", texts)
        >>> ranking[0].text, ranking.stats.cache_hits
        ('Goethe wrote Faust.', 2)
    """

    def __init__(self, encoder: BiEncoder, stored: Stored | None = None) -> None:
        """Set what embeds.

        Args:
            encoder: Embeds the queries, and the documents that are not stored.
            stored: Embeddings of documents by the same model, of any length but 0: a mapping,
                or a callable that is given texts and returns one embedding, or None, for each.
                It may be called from any thread.

        Raises:
            ConfigurationError: If ``stored`` is neither.
        """
        _check_stored(stored)
        self._encoder = encoder
        self._stored = stored

    def score_tasks(self, tasks: Sequence[Task], deadline: float | None = None) -> list[Scored]:
        """Score the documents of each task; see :class:`~rerank_plugins.core.scored.Scorer`.

        Raises:
            InvalidInputError: If a stored embedding is not a vector of the model's dimension.
            InferenceError: If the model fails.
        """
        compared = self._compare(tasks)
        return compared.scored(self._encoder.compute(compared.items, deadline))

    async def ascore_tasks(
        self, tasks: Sequence[Task], deadline: float | None = None
    ) -> list[Scored]:
        """Do the same without blocking the event loop; see :meth:`score_tasks`."""
        compared = await asyncio.to_thread(self._compare, tasks)
        computed = await self._encoder.acompute(compared.items, deadline)
        return await asyncio.to_thread(compared.scored, computed)

    def warm_up(self) -> object:
        """Load the model."""
        return self._encoder.warm_up()

    def close(self) -> None:
        """Release the model; the next request loads it again."""
        self._encoder.close()

    def _compare(self, tasks: Sequence[Task]) -> Compared:
        # The first of each task first, so that a deadline is shared.
        turns = zip_longest(*(task.texts for task in tasks))
        texts = list(dict.fromkeys(text for turn in turns for text in turn if text is not None))
        return Compared(tasks, texts, self._look_up(texts), self._encoder)

    def _look_up(self, texts: list[str]) -> Sequence[ArrayLike | None]:
        if self._stored is None:
            return [None] * len(texts)
        if isinstance(self._stored, Mapping):
            return [self._stored.get(text) for text in texts]
        found = self._stored(list(texts))
        if len(found) != len(texts):
            message = (
                f"stored gave {len(found)} embeddings for {len(texts)} texts; it must give one, "
                "or None, for each."
            )
            raise InvalidInputError(message)
        return found


def _check_stored(stored: object) -> None:
    if stored is not None and not isinstance(stored, Mapping) and not callable(stored):
        message = (
            f"stored is {type(stored).__name__}; give a mapping from text to embedding, or a "
            "callable that takes a list of texts, or None."
        )
        raise ConfigurationError(message)
