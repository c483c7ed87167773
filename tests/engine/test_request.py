"""A job on its way: what is in a batch, and when nothing will change any more."""

from __future__ import annotations

from rerank_plugins.engine.request import DeadlineRequest
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import TextPair


def test_a_job_ends_after_its_batch_was_put_back() -> None:
    """Whether it is given up before or after that."""
    items = [TextPair("q", "one"), TextPair("q", "two")]
    for early in (False, True):
        job = DeadlineRequest(items, None, "interactive", [5, 5], 1.0)
        indices = job.take_in_order(10, 2)
        job.add_tokenized(indices, FakeCrossEncoder().prepare(items))
        job.take(0)
        if early:
            job.give_up()
            assert not job.ended  # the batch may still give a result
        job.put_back(0)
        job.give_up()
        assert job.ended
