"""The first stage: texts to vectors, with separate prompts for queries and documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from rerank_plugins._progress import chunks
from rerank_plugins.core.batching.computed import Computed
from rerank_plugins.core.checks import check_prompt
from rerank_plugins.core.config import MINI, Dtype
from rerank_plugins.core.engine import Engine
from rerank_plugins.core.inputs import check_documents
from rerank_plugins.core.protocols import BiEncoderBackend, FloatArray, Role, RoleText
from rerank_plugins.core.shared_model import SharedModel

CHUNK: Final = 512
"""Texts handed to the engine at once: enough for full batches of like lengths."""


class BiEncoder(SharedModel[RoleText]):
    """Embeds queries and documents as unit vectors, whose dot product is their similarity.

    Bi-encoders of one configuration share one loaded model; it is loaded at first use, or by
    :meth:`warm_up`. All methods are safe from any thread.

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
        device: str | None = None,
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
    ) -> None:
        """Check the settings; the model is loaded later.

        Args:
            model: ``"mini"`` (all-MiniLM-L6-v2 from the extra ``mini``), a Hugging Face Hub
                name, a folder, or a backend object.
            backend: What computes; ``"auto"`` chooses by the model.
            device: A torch device such as ``"cuda:0"`` or ``"cpu"``; None chooses.
            dtype: Data type of the arithmetic; ``"auto"`` chooses by the device.
            max_length: Most tokens a text may have; None is the model's own reach.
            revision: Branch, tag or commit on the hub.
            cache_folder: Where downloads are kept.
            local_files_only: Whether to use only what is already on this machine.
            trust_remote_code: Whether to run Python code that comes with the model.
            idle_unload_s: Seconds without work after which the model's memory is given back
                until the next request; None keeps the model.
            cache_mb: Megabytes for results computed before; the engine keeps the least
                recently used no longer than there is room. 0 keeps none.
            cache_entries: Most vectors in those megabytes; None is as many as find room.
            cache_dir: Folder for vectors that outlast the process; None keeps none.
            cache_dir_mb: Megabytes of that folder; the oldest vectors go beyond them.
            query_prompt: Put before every query; None is the model's own prompt.
            document_prompt: Put before every document; None is the model's own prompt.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
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
        """Length of an embedding."""
        return self.engine.dimension

    def encode_queries(
        self, texts: Sequence[str], *, show_progress: bool | None = None
    ) -> FloatArray:
        """Embed queries, with the model's query prompt.

        Args:
            texts: The queries.
            show_progress: Whether to show a progress bar; None shows it for long work in a
                terminal.

        Returns:
            Unit vectors, float32 of shape ``(len(texts), dimension)``.

        Raises:
            InvalidInputError: If a text is not a string.
            InferenceError: If the model fails.
        """
        return self._encode(texts, "query", show_progress=show_progress)

    def encode_documents(
        self, texts: Sequence[str], *, show_progress: bool | None = None
    ) -> FloatArray:
        """Embed documents, with the model's document prompt; see :meth:`encode_queries`."""
        return self._encode(texts, "document", show_progress=show_progress)

    async def aencode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Embed queries without blocking the event loop; see :meth:`encode_queries`."""
        return await self._aencode(texts, "query")

    async def aencode_documents(self, texts: Sequence[str]) -> FloatArray:
        """Embed documents without blocking the event loop; see :meth:`encode_queries`."""
        return await self._aencode(texts, "document")

    def compute(self, items: Sequence[RoleText], deadline: float | None = None) -> Computed:
        """Embed items of either role in common batches.

        Args:
            items: From :meth:`items`.
            deadline: When to stop, on the clock of :func:`time.perf_counter`.
        """
        return self.engine.compute(items, max_length=self.max_length, deadline=deadline)

    async def acompute(self, items: Sequence[RoleText], deadline: float | None = None) -> Computed:
        """Do the same without blocking the event loop; see :meth:`compute`."""
        engine = await self._aengine()
        return await engine.acompute(items, max_length=self.max_length, deadline=deadline)

    def _encode(
        self, texts: Sequence[str], role: Role, *, show_progress: bool | None
    ) -> FloatArray:
        items = self.items(texts, role)
        vectors = _empty(self.engine)
        for part in chunks(items, CHUNK, f"Encoding ({role})", show=show_progress):
            vectors.append(self.compute(part).values)
        return np.concatenate(vectors)

    async def _aencode(self, texts: Sequence[str], role: Role) -> FloatArray:
        items = self.items(texts, role)
        vectors = _empty(await self._aengine())
        for part in chunks(items, CHUNK, f"Encoding ({role})", show=False):
            vectors.append((await self.acompute(part)).values)
        return np.concatenate(vectors)

    def items(self, texts: Sequence[str], role: Role) -> list[RoleText]:
        """Return checked texts with the prompt of their role, for :meth:`compute`."""
        prompt = self._prompts[role]
        return [RoleText(text, role, prompt) for text in check_documents(texts)]


def _empty(engine: Engine[RoleText]) -> list[FloatArray]:
    """Return a start for concatenation, so that no texts give shape ``(0, dimension)``."""
    return [np.empty((0, engine.dimension), dtype=np.float32)]
