"""What an engine gives back for a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.protocols import FloatArray


@dataclass(frozen=True)
class Computed:
    """What an engine made of one request.

    Attributes:
        values: Float32, the first axis is the request's items in their order; NaN where
            ``done`` is False (of shape ``(items,)`` if none is done).
        tokens: Tokens of each item, shape ``(items,)``.
        truncated: Whether each item was cut, shape ``(items,)``.
        done: Whether each item was computed, or its result known, before the request's
            deadline, shape ``(items,)``; without a deadline all are.
        batches: Batches that held at least one of the items.
        queue_s: Seconds from the request's arrival to its first batch.
        compute_s: Seconds of computing, each batch's shared out by tokens.
        cache_hits: Items whose results were known.
    """

    values: FloatArray
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    done: NDArray[np.bool_]
    batches: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    cache_hits: int = 0

    def part(self, share: Sequence[int]) -> Computed:
        """Return some of the items; the times are those of the whole request."""
        return Computed(
            self.values[share],
            self.tokens[share],
            self.truncated[share],
            self.done[share],
            self.batches,
            self.queue_s,
            self.compute_s,
            self.cache_hits,
        )
