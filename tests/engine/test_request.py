"""Requests: items in batches, and the end of a request."""

from __future__ import annotations

from rerank_plugins.engine.request import DeadlineRequest
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import TextPair


def test_a_given_up_request_ends_after_its_batch_was_put_back() -> None:
    """It may be given up before or after that."""
    items = [TextPair("q", "one"), TextPair("q", "two")]
    for early in (False, True):
        request = DeadlineRequest(items, None, "interactive", [5, 5], 1.0)
        indices = request.take_in_order(10, 2)
        request.add_tokenized(indices, FakeCrossEncoder().prepare(items))
        request.take(0)
        if early:
            request.give_up()
            assert not request.ended  # the batch may still return a result
        request.put_back(0)
        request.give_up()
        assert request.ended
