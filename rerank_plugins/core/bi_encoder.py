"""The first stage: texts to vectors, with separate prompts for queries and documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._progress import chunks
from rerank_plugins.core.batching.computed import Computed
from rerank_plugins.core.checks import check_prompt
from rerank_plugins.core.config import MINI, Dtype
from rerank_plugins.core.embedding_form import EmbeddingForm, Precision, Ranges, value_ranges
from rerank_plugins.core.inputs import check_documents
from rerank_plugins.core.protocols import BiEncoderBackend, FloatArray, Role, RoleText
from rerank_plugins.core.shared_model import SharedModel

CHUNK: Final = 512
"""Texts handed to the engine at once: enough for full batches of like lengths."""


class BiEncoder(SharedModel[RoleText]):
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
            max_length: Most tokens a text may have; None is the model's own reach.
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
            "query": check_prompt("query_prompt", query_prompt),
            "document": check_prompt("document_prompt", document_prompt),
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

    def compute(self, items: Sequence[RoleText], deadline: float | None = None) -> Computed:
        """Embed what :meth:`items` gave in common batches.

        ``deadline`` is when to stop, on the clock of :func:`time.perf_counter`.
        """
        computed = self.engine.compute(items, max_length=self.max_length, deadline=deadline)
        return self.form.shortened(computed)

    async def acompute(self, items: Sequence[RoleText], deadline: float | None = None) -> Computed:
        """Do the same without blocking the event loop."""
        engine = await self._aengine()
        computed = await engine.acompute(items, max_length=self.max_length, deadline=deadline)
        return self.form.shortened(computed)

    def _encode(
        self, texts: Sequence[str], role: Role, *, show_progress: bool | None
    ) -> NDArray[Any]:
        return self.form.quantised(self._vectors(texts, role, show_progress=show_progress))

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
        return self.form.quantised(np.concatenate(vectors))

    def items(self, texts: Sequence[str], role: Role) -> list[RoleText]:
        """Return checked texts with the prompt of their role, for :meth:`compute`."""
        prompt = self._prompts[role]
        return [RoleText(text, role, prompt) for text in check_documents(texts)]
