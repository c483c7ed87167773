"""Bi-encoders: texts to vectors, and document scores from the cosines of vectors.

:class:`BiEncoder` embeds queries and documents with separate prompts. :class:`BiEncoderScorer`
scores documents by their embeddings, with or without stored ones, wherever a model or a cascade
stage is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import PrivateAttr
from typing_extensions import Self

from rerank_plugins._progress import chunks
from rerank_plugins.config import BiEncoderSettings, Settings
from rerank_plugins.core.cross_encoder import StepScorer
from rerank_plugins.core.inputs import validate_documents
from rerank_plugins.core.quantization import EmbeddingFormat, quantization_ranges
from rerank_plugins.core.ranking import validate_scores
from rerank_plugins.core.steps import Step, Steps, arun, in_thread, run
from rerank_plugins.engine.backend import BiEncoderBackend, Role, RoleText
from rerank_plugins.engine.engine import ClosableMixin, Engine
from rerank_plugins.engine.registry import EngineClient
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.types import (
    NOT_SCORED,
    FloatArray,
    ModelIdentity,
    RankingStats,
    ScoreScale,
    ScoringRequest,
    ScoringResult,
)

CHUNK: Final = 512
"""Texts per engine request: enough for full batches of similar lengths."""

StoredEmbeddings = Mapping[str, ArrayLike] | Callable[[list[str]], Sequence[ArrayLike | None]]
"""Embeddings by text, or a function that returns one embedding, or None, per text."""


class BiEncoder(Settings, BiEncoderSettings, ClosableMixin):
    """A bi-encoder: embeds queries and documents as unit vectors, whose dot product is a cosine.

    All bi-encoders of one model share one engine per process. The model is loaded at first use,
    or by :meth:`warm_up`. All methods are safe to call from any thread. Used as a context
    manager, a bi-encoder loads its model on entry and releases it on exit.

    Example:
        >>> from rerank_plugins import BiEncoder
        >>> encoder = BiEncoder()
        >>> similarities = encoder.encode_document(["wet", "dry"]) @ encoder.encode_query("rain")
        >>> similarities.shape
        (2,)
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    _client: EngineClient[RoleText] = PrivateAttr()
    _format: EmbeddingFormat = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Prepare what every request uses; the model is loaded later."""
        super().model_post_init(context)
        self._format = EmbeddingFormat(self.truncate_dim, self.precision, self.ranges)
        self._client = EngineClient(
            "bi-encoder", BiEncoderBackend, self, max_length=self.max_length
        )

    @property
    def name(self) -> str:
        """Name of the model, whether or not it is loaded."""
        return self._client.name

    @property
    def engine(self) -> Engine[RoleText]:
        """The engine, shared by all users of the model in this process; loads it if needed."""
        return self._client.engine

    @property
    def dimension(self) -> int:
        """Length of an embedding in float32; binary ones have an eighth of the numbers."""
        return self._format.dimension(self.engine.dimension)

    def warm_up(self) -> Self:
        """Load the model now, so that the first request does not wait for it.

        Raises:
            ModelLoadError: If the model cannot be loaded.
            MissingDependencyError: If the backend's extra is not installed.
        """
        self._client.warm_up()
        return self

    def close(self) -> None:
        """Release the model in the whole process; the next request loads it again."""
        self._client.close()

    def __enter__(self) -> Self:
        """Load the model."""
        return self.warm_up()

    def encode_query(
        self, texts: str | Sequence[str], *, show_progress: bool | None = None
    ) -> NDArray[Any]:
        """Embed one query or many, with the model's query prompt.

        Args:
            texts: A query, or a list of queries.
            show_progress: Whether to show a progress bar; None shows it for long work in a
                terminal.

        Returns:
            Unit vectors: float32 of shape ``(len(texts), dimension)``, integers of that shape for
            int8 and uint8, bytes of shape ``(len(texts), dimension / 8)`` for binary and ubinary.
            One text gives one vector, without the first axis.

        Raises:
            InvalidInputError: If a text is not a string.
            InferenceError: If the model fails.
        """
        return run(self._encode(texts, "query", show_progress=show_progress))

    def encode_document(
        self, texts: str | Sequence[str], *, show_progress: bool | None = None
    ) -> NDArray[Any]:
        """Embed one document or many, with the document prompt; see :meth:`encode_query`."""
        return run(self._encode(texts, "document", show_progress=show_progress))

    async def aencode_query(self, texts: str | Sequence[str]) -> NDArray[Any]:
        """Embed queries without blocking the event loop; see :meth:`encode_query`."""
        return await arun(self._encode(texts, "query", show_progress=False))

    async def aencode_document(self, texts: str | Sequence[str]) -> NDArray[Any]:
        """Embed documents without blocking the event loop; see :meth:`encode_query`."""
        return await arun(self._encode(texts, "document", show_progress=False))

    def quantization_ranges(self, texts: Sequence[str]) -> FloatArray:
        """Return the value of ``ranges``, ``(2, dimension)``, from a sample of documents.

        Raises:
            InvalidInputError: If there are fewer than two texts; use a thousand or more.
        """
        return quantization_ranges(run(self.vectors(texts, "document", show_progress=False)))

    def items(self, texts: Sequence[str], role: Role) -> list[RoleText]:
        """Return validated texts with the prompt of their role, for :meth:`compute`."""
        prompt = (self.prompts or {}).get(role)
        return [RoleText(text, role, prompt) for text in validate_documents(texts)]

    def compute(self, items: Sequence[RoleText], deadline: float | None) -> Steps[RequestOutput]:
        """Embed :meth:`items` in shared batches, as float32.

        Args:
            items: The texts with their roles.
            deadline: When to stop, on the clock of :func:`time.perf_counter`; None waits.
        """
        engine: Engine[RoleText] = yield Step(lambda: self.engine, self._client.aengine)
        output: RequestOutput = yield Step(
            lambda: engine.compute(items, max_length=self.max_length, deadline=deadline),
            lambda: engine.acompute(items, max_length=self.max_length, deadline=deadline),
        )
        return self._format.truncate(output)

    def vectors(
        self, texts: Sequence[str], role: Role, *, show_progress: bool | None
    ) -> Steps[FloatArray]:
        """Embed texts as float32, ``(len(texts), dimension)``."""
        items = self.items(texts, role)
        engine: Engine[RoleText] = yield Step(lambda: self.engine, self._client.aengine)
        vectors = [np.empty((0, self._format.dimension(engine.dimension)), dtype=np.float32)]
        for chunk in chunks(items, CHUNK, f"Encoding ({role})", show=show_progress):
            output = yield from self.compute(chunk, None)
            vectors.append(output.values)
        return np.concatenate(vectors)

    def _encode(
        self, texts: str | Sequence[str], role: Role, *, show_progress: bool | None
    ) -> Steps[NDArray[Any]]:
        single = isinstance(texts, str)
        vectors = yield from self.vectors(
            [texts] if isinstance(texts, str) else texts, role, show_progress=show_progress
        )
        quantized = self._format.quantize(vectors)
        return quantized[0] if single else quantized


class BiEncoderScorer(StepScorer):
    """A scorer: ranks documents by the cosine between their embedding and the query's.

    Only documents without a stored embedding are embedded; identical texts are embedded once.

    Example:
        >>> from rerank_plugins import BiEncoder, BiEncoderScorer, Reranker
        >>> texts = ["It rains.", "Goethe wrote Faust."]
        >>> encoder = BiEncoder()
        >>> stored = dict(zip(texts, encoder.encode_document(texts)))
        >>> ranking = Reranker(BiEncoderScorer(encoder, stored)).rank("Who wrote Faust?", texts)
        >>> ranking[0].text, ranking.stats.cache_hits
        ('Goethe wrote Faust.', 2)
    """

    def __init__(self, encoder: BiEncoder, stored: StoredEmbeddings | None = None) -> None:
        """Set the encoder and the stored embeddings.

        Args:
            encoder: Embeds the queries, and the documents without a stored embedding.
            stored: Embeddings of documents by the same model, of any length but 0: a mapping,
                or a callable that is given texts and returns one embedding, or None, for each.
                It may be called from any thread.

        Raises:
            ConfigurationError: If ``stored`` is neither.
        """
        valid: bool = stored is None or isinstance(stored, Mapping) or callable(stored)
        if not valid:
            message = (
                f"stored is {type(stored).__name__}; give a mapping from text to embedding, or a "
                "callable that takes a list of texts, or None."
            )
            raise ConfigurationError(message)
        self._encoder = encoder
        self._stored = stored

    def steps(
        self, requests: Sequence[ScoringRequest], deadline: float | None
    ) -> Steps[list[ScoringResult]]:
        """Score the documents of each request.

        Raises:
            InvalidInputError: If a stored embedding is not a vector of the model's dimension.
            InferenceError: If the model fails.
        """
        batch: _EmbeddingBatch = yield in_thread(self._look_up, requests)
        output = yield from self._encoder.compute(batch.items, deadline)
        results: list[ScoringResult] = yield in_thread(batch.results, output)
        return results

    def warm_up(self) -> None:
        """Load the model."""
        self._encoder.warm_up()

    def close(self) -> None:
        """Release the model; the next request loads it again."""
        self._encoder.close()

    def _look_up(self, requests: Sequence[ScoringRequest]) -> _EmbeddingBatch:
        # The first document of each request comes first, so that all share a deadline.
        turns = zip_longest(*(request.texts for request in requests))
        texts = list(dict.fromkeys(text for turn in turns for text in turn if text is not None))
        return _EmbeddingBatch(requests, texts, self._stored_vectors(texts), self._encoder)

    def _stored_vectors(self, texts: list[str]) -> Sequence[ArrayLike | None]:
        if self._stored is None:
            return [None] * len(texts)
        if isinstance(self._stored, Mapping):
            return [self._stored.get(text) for text in texts]
        vectors = self._stored(list(texts))
        if len(vectors) != len(texts):
            message = (
                f"stored returned {len(vectors)} embeddings for {len(texts)} texts; it must "
                "return one, or None, for each."
            )
            raise InvalidInputError(message)
        return vectors


class _EmbeddingBatch:
    """The unique texts of some requests, and which of them must be embedded.

    Attributes:
        items: The queries, then the texts without a stored embedding.
    """

    def __init__(
        self,
        requests: Sequence[ScoringRequest],
        texts: list[str],
        stored: Sequence[ArrayLike | None],
        encoder: BiEncoder,
    ) -> None:
        """Validate the stored embeddings and collect the missing ones.

        Args:
            requests: The queries and their documents.
            texts: The unique documents.
            stored: The embedding of each text; None where there is none.
            encoder: Will embed :attr:`items`.

        Raises:
            InvalidInputError: If a stored embedding is not a vector of the model's dimension.
        """
        self._requests = requests
        self._row_of = {text: row for row, text in enumerate(texts)}
        self._is_stored = np.array([vector is not None for vector in stored], dtype=np.bool_)
        self._vectors = np.zeros((len(texts), encoder.dimension), dtype=np.float32)
        for text, row, vector in zip(texts, self._vectors, stored, strict=True):
            if vector is not None:
                row[:] = _unit_vector(vector, encoder.dimension, text)
        self._model: ModelIdentity = encoder.engine.identity
        missing = [text for text, vector in zip(texts, stored, strict=True) if vector is None]
        self.items: list[RoleText] = [
            *encoder.items([request.query for request in requests], "query"),
            *encoder.items(missing, "document"),
        ]

    def results(self, output: RequestOutput) -> list[ScoringResult]:
        """Return the scores of each request, given the embeddings of :attr:`items`."""
        # The position of each text among the items; -1 for stored ones.
        missing = ~self._is_stored
        item = np.where(self._is_stored, -1, len(self._requests) - 1 + np.cumsum(missing))
        done, truncated = self._is_stored.copy(), np.zeros(len(item), dtype=np.bool_)
        done[missing] = output.done[item[missing]]
        truncated[missing] = output.truncated[item[missing]]
        computed = done & missing
        if computed.any():
            self._vectors[computed] = output.values[item[computed]]
        return [
            self._result(number, output, item, done, truncated)
            for number in range(len(self._requests))
        ]

    def _result(
        self,
        number: int,
        output: RequestOutput,
        item: NDArray[np.intp],
        done: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> ScoringResult:
        rows = np.array(
            [self._row_of[text] for text in self._requests[number].texts], dtype=np.intp
        )
        scored = done[rows] & output.done[number]
        scores = np.full(len(rows), np.nan, dtype=np.float32)
        if scored.any():
            with np.errstate(invalid="ignore"):  # validate_scores refuses what is not finite
                cosines = self._vectors[rows[scored]] @ output.values[number]
            scores[scored] = validate_scores(cosines, int(scored.sum()))
        unique = np.unique(rows)
        embedded = item[unique][~self._is_stored[unique]]
        return ScoringResult(
            scores=scores,
            stage=np.where(scored, 0, NOT_SCORED),
            truncated=truncated[rows],
            windows=[None] * len(rows),
            model=self._model,
            scale=ScoreScale.UNDECLARED,
            stats=RankingStats(
                documents=len(rows),
                scored=int(scored.sum()),
                pairs=len(unique),
                tokens=int(output.tokens[[number, *embedded.tolist()]].sum()),
                truncated=int(truncated[rows].sum()),
                batches=output.batches,
                cache_hits=int(self._is_stored[unique].sum()),
                queue_s=output.queue_s,
                compute_s=output.compute_s,
            ),
            status="complete" if scored.all() else "partial",
        )


def _unit_vector(vector: ArrayLike, dimension: int, text: str) -> FloatArray:
    """Return a stored embedding with length 1.

    Raises:
        InvalidInputError: If it is not a finite vector of that dimension, or is all 0.
    """
    values = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(values)) if values.shape == (dimension,) else 0.0
    if not 0 < length < np.inf:
        message = (
            f"the embedding stored for {text[:40]!r} has shape {values.shape} and length "
            f"{length:g}; it must have shape ({dimension},) and finite values, not all 0. Store "
            "the result of BiEncoder.encode_document."
        )
        raise InvalidInputError(message)
    unit: FloatArray = (values / length).astype(np.float32)
    return unit
