"""The first stage: texts to vectors, with separate prompts for queries and documents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins._progress import chunks
from rerank_plugins.config import MINI, Dtype, validate_prompt
from rerank_plugins.core.inputs import validate_documents
from rerank_plugins.core.quantization import EmbeddingForm, Precision, Ranges, value_ranges
from rerank_plugins.core.ranking import validate_scores
from rerank_plugins.engine.backend import BiEncoderBackend, Role, RoleText
from rerank_plugins.engine.engine import ClosableMixin
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
"""Texts handed to the engine at once: enough for full batches of like lengths."""


class BiEncoder(EngineClient[RoleText]):
    """Embeds queries and documents as unit vectors, whose dot product is their similarity.

    Those of one configuration share one model, loaded at first use. All methods are thread-safe.

    Example:
        >>> from rerank_plugins import BiEncoder
        >>> encoder = BiEncoder()
        >>> similarity = encoder.encode_queries(["rain"]) @ encoder.encode_documents(["wet"]).T
        >>> similarity.shape
        (1, 1)
    """

    _kind = "bi-encoder"
    _protocol = BiEncoderBackend

    def __init__(
        self,
        model: str | Path | BiEncoderBackend = MINI,
        *,
        backend: str = "auto",
        device: str | Sequence[str] | None = None,
        dtype: Dtype = "auto",
        max_length: int | None = None,
        revision: str | None = None,
        cache_folder: str | Path | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        idle_unload_s: float | None = None,
        cache_mb: float = 0,
        cache_entries: int | None = None,
        cache_dir: str | Path | None = None,
        cache_dir_mb: float = 1024,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        truncate_dim: int | None = None,
        precision: Precision = "float32",
        ranges: Ranges | None = None,
    ) -> None:
        """Check the settings; the model is loaded later.

        Args:
            model: ``"mini"`` (all-MiniLM-L6-v2 from the extra ``mini``), a Hugging Face Hub
                name, a folder, or a backend object.
            backend: What computes; ``"auto"`` chooses by the model.
            device: A torch device such as ``"cuda:0"`` or ``"cpu"``; None chooses. Several
                have a replica of the model each.
            dtype: Data type of the arithmetic; ``"auto"`` chooses by the device.
            max_length: Most tokens a text may have; None is the model's own maximum length.
            revision: Branch, tag or commit on the hub.
            cache_folder: Where downloads are kept.
            local_files_only: Whether to use only what is already on this machine.
            trust_remote_code: Whether to run Python code that comes with the model.
            idle_unload_s: Seconds without work after which the model's memory is given back
                until the next request; None keeps the model.
            cache_mb: Megabytes for results computed before; 0 keeps none.
            cache_entries: Most vectors in those megabytes; None is as many as find room.
            cache_dir: Folder for vectors that outlast the process; None keeps none.
            cache_dir_mb: Megabytes of that folder; the oldest vectors go beyond them.
            query_prompt: Put before every query; None is the model's own prompt.
            document_prompt: Put before every document; None is the model's own prompt.
            truncate_dim: How many dimensions are kept, the first ones; None is all.
            precision: ``"float32"``, ``"int8"``, ``"uint8"``, ``"binary"`` or ``"ubinary"``.
            ranges: For the two integer ones: what :meth:`value_ranges` gave for a sample.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        self.form = EmbeddingForm(truncate_dim, precision, ranges)
        self.max_length = max_length
        self._prompts: dict[Role, str | None] = {
            "query": validate_prompt("query_prompt", query_prompt),
            "document": validate_prompt("document_prompt", document_prompt),
        }
        super().__init__(
            model,
            cache_folder,
            backend=backend,
            device=device,
            dtype=dtype,
            max_length=max_length,
            revision=revision,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
            idle_unload_s=idle_unload_s,
            cache_mb=cache_mb,
            cache_entries=cache_entries,
            cache_dir=cache_dir,
            cache_dir_mb=cache_dir_mb,
        )

    @property
    def dimension(self) -> int:
        """Length of an embedding in float32; binary ones have an eighth of the numbers."""
        return self.form.dimension(self.engine.dimension)

    def value_ranges(self, texts: Sequence[str]) -> FloatArray:
        """Return what ``ranges`` takes, ``(2, dimension)``, from a sample of documents.

        Raises:
            InvalidInputError: If there are fewer than two; a thousand or more are better.
        """
        return value_ranges(self._vectors(texts, "document", show_progress=False))

    def encode_queries(
        self, texts: Sequence[str], *, show_progress: bool | None = None
    ) -> NDArray[Any]:
        """Embed queries, with the model's query prompt.

        Args:
            texts: The queries.
            show_progress: Whether to show a progress bar; None is for long work in a terminal.

        Returns:
            Unit vectors, float32 of shape ``(len(texts), dimension)``; for int8 and uint8 integers
            of that shape; for (u)binary bytes of shape ``(len(texts), dimension / 8)``.

        Raises:
            InvalidInputError: If a text is not a string.
            InferenceError: If the model fails.
        """
        return self._encode(texts, "query", show_progress=show_progress)

    def encode_documents(
        self, texts: Sequence[str], *, show_progress: bool | None = None
    ) -> NDArray[Any]:
        """Embed documents, with the model's document prompt; see :meth:`encode_queries`."""
        return self._encode(texts, "document", show_progress=show_progress)

    async def aencode_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        """Embed queries without blocking the event loop; see :meth:`encode_queries`."""
        return await self._aencode(texts, "query")

    async def aencode_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        """Embed documents without blocking the event loop; see :meth:`encode_queries`."""
        return await self._aencode(texts, "document")

    def compute(self, items: Sequence[RoleText], deadline: float | None = None) -> RequestOutput:
        """Embed what :meth:`items` gave in common batches.

        ``deadline`` is when to stop, on the clock of :func:`time.perf_counter`.
        """
        computed = self.engine.compute(items, max_length=self.max_length, deadline=deadline)
        return self.form.shortened(computed)

    async def acompute(
        self, items: Sequence[RoleText], deadline: float | None = None
    ) -> RequestOutput:
        """Do the same without blocking the event loop."""
        engine = await self._aengine()
        computed = await engine.acompute(items, max_length=self.max_length, deadline=deadline)
        return self.form.shortened(computed)

    def _encode(
        self, texts: Sequence[str], role: Role, *, show_progress: bool | None
    ) -> NDArray[Any]:
        return self.form.quantized(self._vectors(texts, role, show_progress=show_progress))

    def _vectors(
        self, texts: Sequence[str], role: Role, *, show_progress: bool | None
    ) -> FloatArray:
        items = self.items(texts, role)
        vectors = [np.empty((0, self.dimension), dtype=np.float32)]
        parts = chunks(items, CHUNK, f"Encoding ({role})", show=show_progress)
        return np.concatenate([*vectors, *(self.compute(part).values for part in parts)])

    async def _aencode(self, texts: Sequence[str], role: Role) -> NDArray[Any]:
        items = self.items(texts, role)
        await self._aengine()
        vectors = [np.empty((0, self.dimension), dtype=np.float32)]
        for part in chunks(items, CHUNK, f"Encoding ({role})", show=False):
            vectors += [(await self.acompute(part)).values]
        return self.form.quantized(np.concatenate(vectors))

    def items(self, texts: Sequence[str], role: Role) -> list[RoleText]:
        """Return checked texts with the prompt of their role, for :meth:`compute`."""
        prompt = self._prompts[role]
        return [RoleText(text, role, prompt) for text in validate_documents(texts)]


class Compared:
    """The texts of some tasks, each once, and what has to be embedded for them.

    Attributes:
        items: The queries, then the texts without a stored embedding.
    """

    def __init__(
        self,
        tasks: Sequence[ScoringRequest],
        texts: list[str],
        stored: Sequence[ArrayLike | None],
        encoder: BiEncoder,
    ) -> None:
        """Check what is stored and find what is missing.

        Args:
            tasks: What to score.
            texts: Their texts, each once.
            stored: The embedding of each text; None where there is none.
            encoder: What will embed :attr:`items`.

        Raises:
            InvalidInputError: If a stored embedding is not a vector of the model's dimension.
        """
        self._tasks = tasks
        self._position = {text: number for number, text in enumerate(texts)}
        self._known = np.array([vector is not None for vector in stored], dtype=np.bool_)
        self._vectors = np.zeros((len(texts), encoder.dimension), dtype=np.float32)
        for text, row, vector in zip(texts, self._vectors, stored, strict=True):
            if vector is not None:
                row[:] = _unit(vector, encoder.dimension, text)
        self._model: ModelIdentity = encoder.engine.identity
        missing = [text for text, vector in zip(texts, stored, strict=True) if vector is None]
        self.items: list[RoleText] = [
            *encoder.items([task.query for task in tasks], "query"),
            *encoder.items(missing, "document"),
        ]

    def scored(self, computed: RequestOutput) -> list[ScoringResult]:
        """Return the tasks' scores, given the embeddings of :attr:`items`."""
        # Where each text stands among the items; -1 for those that are stored.
        item = np.where(self._known, -1, len(self._tasks) - 1 + np.cumsum(~self._known))
        done, cut = self._known.copy(), np.zeros(len(item), dtype=np.bool_)
        done[~self._known] = computed.done[item[~self._known]]
        cut[~self._known] = computed.truncated[item[~self._known]]
        fresh = done & ~self._known
        if fresh.any():
            self._vectors[fresh] = computed.values[item[fresh]]
        return [
            self._answer(number, computed, item, done, cut) for number in range(len(self._tasks))
        ]

    def _answer(
        self,
        number: int,
        computed: RequestOutput,
        item: NDArray[np.intp],
        done: NDArray[np.bool_],
        cut: NDArray[np.bool_],
    ) -> ScoringResult:
        texts = self._tasks[number].texts
        rows = np.array([self._position[text] for text in texts], dtype=np.intp)
        scored = done[rows] & computed.done[number]
        scores = np.full(len(rows), np.nan, dtype=np.float32)
        if scored.any():
            with np.errstate(invalid="ignore"):  # what is not finite is refused by name
                cosines = self._vectors[rows[scored]] @ computed.values[number]
            scores[scored] = validate_scores(cosines, int(scored.sum()))
        own = np.unique(rows)
        embedded = item[own][~self._known[own]]
        return ScoringResult(
            scores=scores,
            stage=np.where(scored, 0, NOT_SCORED),
            truncated=cut[rows],
            windows=[None] * len(rows),
            model=self._model,
            scale=ScoreScale.UNDECLARED,
            stats=RankingStats(
                documents=len(rows),
                scored=int(scored.sum()),
                pairs=len(own),
                tokens=int(computed.tokens[[number, *embedded.tolist()]].sum()),
                truncated=int(cut[rows].sum()),
                batches=computed.batches,
                cache_hits=int(self._known[own].sum()),
                queue_s=computed.queue_s,
                compute_s=computed.compute_s,
            ),
            status="complete" if scored.all() else "partial",
        )


def _unit(vector: ArrayLike, dimension: int, text: str) -> FloatArray:
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
            "what BiEncoder.encode_documents gives."
        )
        raise InvalidInputError(message)
    unit: FloatArray = (values / length).astype(np.float32)
    return unit


Stored = Mapping[str, ArrayLike] | Callable[[list[str]], Sequence[ArrayLike | None]]
"""Embeddings by text, or what looks them up: one a text, None where there is none."""


class BiEncoderScorer(ClosableMixin):
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
        _validate_stored(stored)
        self._encoder = encoder
        self._stored = stored

    def score_requests(
        self, tasks: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Score the documents of each task; see :class:`~rerank_plugins.types.Scorer`.

        Raises:
            InvalidInputError: If a stored embedding is not a vector of the model's dimension.
            InferenceError: If the model fails.
        """
        compared = self._compare(tasks)
        return compared.scored(self._encoder.compute(compared.items, deadline))

    async def ascore_requests(
        self, tasks: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Do the same without blocking the event loop; see :meth:`score_requests`."""
        compared = await asyncio.to_thread(self._compare, tasks)
        computed = await self._encoder.acompute(compared.items, deadline)
        return await asyncio.to_thread(compared.scored, computed)

    def warm_up(self) -> object:
        """Load the model."""
        return self._encoder.warm_up()

    def close(self) -> None:
        """Release the model; the next request loads it again."""
        self._encoder.close()

    def _compare(self, tasks: Sequence[ScoringRequest]) -> Compared:
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


def _validate_stored(stored: object) -> None:
    if stored is not None and not isinstance(stored, Mapping) and not callable(stored):
        message = (
            f"stored is {type(stored).__name__}; give a mapping from text to embedding, or a "
            "callable that takes a list of texts, or None."
        )
        raise ConfigurationError(message)
