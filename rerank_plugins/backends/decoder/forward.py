"""The forward pass of a decoder: the last token's state, scored by selected rows of a head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from rerank_plugins.backends.decoder.prompts import Ids, PromptedPair

_KeysValues: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_ID_BYTES: Final = np.dtype(np.int32).itemsize

_MAX_PREFIXES: Final = 8
"""Number of prefixes whose keys and values are cached: batches of one request run consecutively."""

_CACHE_ARGUMENT: Final = "cache"
_OLD_CACHE_ARGUMENT: Final = "past_key_values"


class Head(torch.nn.Module):
    """Scores the last token's state, in float32.

    With two rows, the score is the difference of their logits (the log odds of yes against no);
    with one row, it is the logit.
    """

    def __init__(
        self, rows: torch.Tensor, bias: torch.Tensor | None = None, softcap: float | None = None
    ) -> None:
        """Copy the selected rows of an output layer.

        Args:
            rows: Shape ``(1 or 2, width)``: the row of yes, then the row of no.
            bias: One number per row.
            softcap: The bound of logits of Gemma 2.
        """
        super().__init__()
        self.rows: torch.Tensor
        self.bias: torch.Tensor | None
        self.register_buffer("rows", rows.detach().float().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self._softcap = softcap

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return scores of shape ``(sequences,)`` for states of shape ``(sequences, width)``."""
        logits = torch.nn.functional.linear(states.float(), self.rows, self.bias)
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits[:, 0] - logits[:, 1]


class LastTokenScorer:
    """Scores batches of prompted pairs; the common prefix of a query's pairs is computed once.

    Rows are padded on the right. In a decoder, no token attends to a later one, so padding changes
    nothing, and positions count from 0 without a mask.

    Attributes:
        reuse: Whether the keys and values of common prefixes are cached.
    """

    def __init__(self, base: Any, head: Head, device: torch.device) -> None:  # noqa: ANN401
        """Use a loaded model.

        Args:
            base: A transformers decoder without its output layer.
            head: Scores the states of the decoder.
            device: Device of both.
        """
        self.reuse = True
        self._base = base
        self._cache_argument = cache_argument(base.forward)
        self._head = head
        self._device = device
        self._prefixes: dict[bytes, list[_KeysValues]] = {}

    def __call__(self, batch: Sequence[PromptedPair]) -> torch.Tensor:
        """Return scores of shape ``(len(batch),)``, float32."""
        groups: dict[bytes, list[int]] = {}
        for row, pair in enumerate(batch):
            # Each row keeps at least one token outside of the prefix.
            length = min(pair.head, len(pair.ids) - 1) if self.reuse else 0
            groups.setdefault(pair.ids[:length].tobytes(), []).append(row)
        scores = torch.empty(len(batch), dtype=torch.float32, device=self._device)
        without_prefix: list[int] = []
        for key, rows in groups.items():
            if not key or (len(rows) == 1 and key not in self._prefixes):
                without_prefix += rows
                continue
            prefix = self._prefix(key)
            length = len(key) // _ID_BYTES
            scores[rows] = self._scores([batch[row].ids[length:] for row in rows], prefix)
        if without_prefix:
            scores[without_prefix] = self._scores([batch[row].ids for row in without_prefix], [])
        return scores

    def clear_prefixes(self) -> None:
        """Release the cached keys and values."""
        self._prefixes.clear()

    def _scores(self, rows: list[Ids], prefix: list[_KeysValues]) -> torch.Tensor:
        lengths = [len(row) for row in rows]
        ids = np.zeros((len(rows), max(lengths)), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
        states = self._states(ids, _expanded(prefix, len(rows)) if prefix else None)
        last = torch.tensor(lengths, device=self._device) - 1
        scores: torch.Tensor = self._head(
            states[torch.arange(len(rows), device=self._device), last]
        )
        return scores

    def _states(self, ids: NDArray[np.int64], cache: DynamicCache | None) -> torch.Tensor:
        output = self._base(
            input_ids=torch.from_numpy(ids).to(self._device),
            use_cache=cache is not None,
            **{self._cache_argument: cache},
        )
        states: torch.Tensor = output.last_hidden_state
        return states

    def _prefix(self, key: bytes) -> list[_KeysValues]:
        """Return the keys and values of a prefix for each layer; the cache is an LRU cache."""
        prefix = self._prefixes.pop(key, None)
        if prefix is None:
            cache = DynamicCache()
            self._states(np.frombuffer(key, dtype=np.int32).astype(np.int64)[None], cache)
            layers: list[Any] = list(cache.layers)
            prefix = [(layer.keys, layer.values) for layer in layers]
        self._prefixes[key] = prefix
        while len(self._prefixes) > _MAX_PREFIXES:
            self._prefixes.pop(next(iter(self._prefixes)))
        return prefix


def cache_argument(function: Callable[..., Any]) -> str:
    """Return the name of a function's argument for cached keys and values.

    It depends on the version of transformers.
    """
    if _CACHE_ARGUMENT in inspect.signature(function).parameters:
        return _CACHE_ARGUMENT
    return _OLD_CACHE_ARGUMENT


def _expanded(prefix: list[_KeysValues], rows: int) -> DynamicCache:
    """Return a cache that contains the prefix in every row, without a copy."""
    cache = DynamicCache()
    for keys, values in prefix:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(rows, -1, -1, -1)
        layer.values = values.expand(rows, -1, -1, -1)
        cache.layers.append(layer)
    return cache
