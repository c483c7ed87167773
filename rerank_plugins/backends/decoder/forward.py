"""A decoder's scores: the last token's state, against the rows of a head that matter."""

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

_NAME: Final = "cache"
_OLD_NAME: Final = "past_key_values"


def cache_argument(function: Callable[..., Any]) -> str:
    """Return the name of the argument by which a function takes keys and values."""
    return _NAME if _NAME in inspect.signature(function).parameters else _OLD_NAME


_KeysValues: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_BYTES: Final = np.dtype(np.int32).itemsize

_KEPT_PREFIXES: Final = 8
"""Prefixes whose keys and values are kept: a request's batches follow one another."""


class Head(torch.nn.Module):
    """Scores the last token's state, in float32.

    With two rows the score is the difference of the two logits (the log odds of yes against
    no), with one row the logit itself.
    """

    def __init__(
        self, rows: torch.Tensor, bias: torch.Tensor | None = None, softcap: float | None = None
    ) -> None:
        """Keep a copy of what is needed of an output layer.

        Args:
            rows: Shape ``(1 or 2, width)``: of yes, then of no.
            bias: One number a row.
            softcap: Gemma 2's bound of logits.
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


class LastToken:
    """Scores batches of prompted pairs; what pairs of one query begin with is computed once.

    Rows are padded at the right: in a decoder no token sees a later one, so padding changes
    nothing, and positions count from 0 without a mask.
    """

    def __init__(self, base: Any, head: Head, device: torch.device, *, reuse: bool = True) -> None:  # noqa: ANN401
        """Use a loaded model.

        Args:
            base: A transformers decoder without its output layer.
            head: What makes scores of its states.
            device: Where both are.
            reuse: Whether to keep keys and values of what pairs of a query begin with.
        """
        self.reuse = reuse
        self._base = base
        self._cache_argument = cache_argument(base.forward)
        self._head = head
        self._device = device
        self._prefixes: dict[bytes, list[_KeysValues]] = {}

    def __call__(self, batch: Sequence[PromptedPair]) -> torch.Tensor:
        """Return scores of shape ``(len(batch),)``, float32."""
        groups: dict[bytes, list[int]] = {}
        for row, pair in enumerate(batch):
            # One token of its own is left to every row.
            shared = pair.ids[: min(pair.head, len(pair.ids) - 1)] if self.reuse else pair.ids[:0]
            groups.setdefault(shared.tobytes(), []).append(row)
        scores = torch.empty(len(batch), dtype=torch.float32, device=self._device)
        alone: list[int] = []
        for key, rows in groups.items():
            known = key in self._prefixes
            if not key or (len(rows) == 1 and not known):
                alone += rows
                continue
            prefix = self._prefix(key)
            length = len(key) // _BYTES
            scores[rows] = self._scores([batch[row].ids[length:] for row in rows], prefix)
        if alone:
            scores[alone] = self._scores([batch[row].ids for row in alone], [])
        return scores

    def forget(self) -> None:
        """Release the kept keys and values."""
        self._prefixes.clear()

    def _scores(self, rows: list[Ids], prefix: list[_KeysValues]) -> torch.Tensor:
        lengths = [len(row) for row in rows]
        ids = np.zeros((len(rows), max(lengths)), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
        states = self._states(ids, _repeated(prefix, len(rows)) if prefix else None)
        last = torch.tensor(lengths, device=self._device) - 1
        every = torch.arange(len(rows), device=self._device)
        scores: torch.Tensor = self._head(states[every, last])
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
        kept = self._prefixes.pop(key, None)
        if kept is None:
            cache = DynamicCache()
            self._states(np.frombuffer(key, dtype=np.int32).astype(np.int64)[None], cache)
            layers: list[Any] = list(cache.layers)
            kept = [(layer.keys, layer.values) for layer in layers]
        self._prefixes[key] = kept
        while len(self._prefixes) > _KEPT_PREFIXES:
            self._prefixes.pop(next(iter(self._prefixes)))
        return kept


def _repeated(prefix: list[_KeysValues], rows: int) -> DynamicCache:
    """Return a cache that holds the prefix for every row, without copying it."""
    cache = DynamicCache()
    for keys, values in prefix:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(rows, -1, -1, -1)
        layer.values = values.expand(rows, -1, -1, -1)
        cache.layers.append(layer)
    return cache
