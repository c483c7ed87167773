"""Batches are filled up to few sizes, with sequences like any others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.torch.buckets import LARGEST, Bucket
from rerank_plugins.backends.torch.inputs import Inputs
from rerank_plugins.backends.torch.pairs import TokenPair
from rerank_plugins.core.protocols import Prepared

PAD, FIRST = 9, 2

lengths_of_batches = st.lists(st.integers(1, 600), min_size=1, max_size=80)


@given(lengths_of_batches)
def test_what_fills_up_is_made_of_sequences_that_could_be_asked_for(lengths: list[int]) -> None:
    bucket = Bucket.of(lengths)
    if bucket is None:
        assert sum(lengths) > LARGEST / 2
        return
    filling = bucket.filling(lengths)
    assert sum(lengths) + sum(filling) == bucket.tokens <= LARGEST
    assert len(lengths) + len(filling) == bucket.sequences
    assert all(1 <= length <= max(lengths) for length in filling)
    assert max(lengths) <= bucket.longest
    assert Bucket.of(lengths[::-1]) == bucket


@pytest.mark.parametrize(
    ("lengths", "bucket"),
    [
        ([3], Bucket(64, 32, 128)),
        ([120] * 10, Bucket(1_280, 16, 128)),
        ([512] * 3 + [90] * 7, Bucket(2_560, 16, 512)),
        ([120] * 50, Bucket(6_144, 64, 128)),
        ([600] * 10, Bucket(6_144, 16, 2_048)),
        ([512] * 16, Bucket(8_192, 16, 512)),
        ([512] * 17, None),
    ],
)
def test_a_batch_grows_by_little(lengths: list[int], bucket: Bucket | None) -> None:
    assert Bucket.of(lengths) == bucket


@given(st.lists(st.integers(60, 200), min_size=50, max_size=50))
def test_fifty_passages_share_a_handful_of_buckets(lengths: list[int]) -> None:
    """All that can come of 3,000 to 10,000 tokens."""
    bucket = Bucket.of(lengths)
    assert bucket is None or bucket in {
        Bucket(tokens, sequences, longest)
        for tokens in (3_072, 3_584, 4_096, 5_120, 6_144, 7_168, 8_192)
        for sequences in (64,)
        for longest in (128, 512)
    }
    assert bucket is None or bucket.tokens <= 1.25 * (sum(lengths) + 14)


def pairs(lengths: list[int], seed: int) -> list[Prepared]:
    numbers = np.random.default_rng(seed)
    return [
        Prepared(
            tokens=length,
            truncated=False,
            payload=TokenPair(
                numbers.integers(10, 99, length, dtype=np.int32),
                numbers.integers(0, 2, length, dtype=np.int32),
            ),
        )
        for length in lengths
    ]


@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=20), min_size=1, max_size=4))
def test_a_frame_holds_the_packed_batch_and_nothing_of_the_one_before(
    batches: list[list[int]],
) -> None:
    inputs = Inputs(torch.device("cpu"), torch.float32, typed=True, pad=PAD, first=FIRST)
    bucket = Bucket(2_048, 128, 128)  # holds all of them
    frame = inputs.frame(bucket)
    firsts = frame.batch.packing.firsts
    for seed, lengths in enumerate(batches):
        batch = pairs(sorted(lengths, reverse=True), seed)
        count, total = len(lengths), sum(lengths)
        inputs.fill(frame, batch)
        filled = [part.tolist() for part in frame.batch[:3]]
        alone = inputs.packed(batch)
        assert [part[:total] for part in filled] == [part.tolist() for part in alone[:3]]
        assert set(filled[0][total:]) == {PAD}
        assert set(filled[1][total:]) == {0}
        bounds = frame.batch.packing.bounds
        assert bounds[: count + 1].tolist() == alone.packing.bounds.tolist()
        assert bounds[-1] == bucket.tokens
        assert (bounds.diff() >= 1).all()
        assert torch.tensor(filled[2])[firsts].tolist() == [FIRST] * bucket.sequences
        assert max(filled[2]) < FIRST + int(bounds.diff().max())


def test_one_copy_fills_a_frame() -> None:
    """What a graph reads must stay where it is: all parts are views of one memory."""
    inputs = Inputs(torch.device("cpu"), torch.float32, typed=True, pad=PAD, first=FIRST)
    frame = inputs.frame(Bucket(64, 8, 128))
    where = {part.untyped_storage().data_ptr() for part in frame.batch[:3]}
    packing = frame.batch.packing
    where |= {part.untyped_storage().data_ptr() for part in (packing.firsts, packing.bounds)}
    assert where == {frame.memory.untyped_storage().data_ptr()}
    assert frame.memory.numel() == 3 * 64 + 8 + 1
