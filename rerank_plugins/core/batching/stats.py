"""What an engine has done since it was made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """Counters of one engine.

    Attributes:
        requests: Requests that came, whatever became of them.
        cancelled: Requests whose callers went away before the end.
        expired: Requests answered at their deadline, or when no more fitted, with a part.
        items: Pairs (or texts, for a bi-encoder) computed.
        tokens: Tokens of those items, without padding.
        padded_tokens: Tokens computed, padding included.
        batches: Calls of the backend.
        truncated: Items of which the model could not read all.
        cache_hits: Items whose results were known; not counted in ``items``.
        out_of_memory: Batches that did not fit and were tried again, smaller.
        queue_s: Seconds that requests waited for their first batch, summed.
        compute_s: Seconds in the backend, summed.
        queued_tokens: Tokens that wait now.
        batch_tokens: The token budget of a batch now; lower than at the start if memory ran
            out.
    """

    requests: int = 0
    cancelled: int = 0
    expired: int = 0
    items: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    batches: int = 0
    truncated: int = 0
    cache_hits: int = 0
    out_of_memory: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    queued_tokens: int = 0
    batch_tokens: int = 0

    @property
    def padding_share(self) -> float:
        """Share of the computed tokens that were padding, 0 to 1."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0
