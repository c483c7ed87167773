"""The machine's limit and the useful work: the formula against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.limit import matmul_limit, useful_flops
from tests.helpers.tiny_models import _bert

SHAPE = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 64}


def test_useful_work_is_what_torch_counts_in_the_reference_model() -> None:
    model = _bert(num_labels=1, num_attention_heads=4, vocab_size=99, **SHAPE).eval()
    model.set_attn_implementation("eager")  # torch does not count the fused one on a CPU
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        for length in (7, 30):
            model(torch.ones(1, length, dtype=torch.int64))
    assert useful_flops([7, 30], 3, 32, 64) == counter.get_total_flops()


def test_the_first_token_saves_most_of_the_last_layer() -> None:
    whole = useful_flops([128], 6, 384, 1536)
    saved = 1 - useful_flops([128], 6, 384, 1536, "first token") / whole
    assert saved == pytest.approx(0.137, abs=0.005)
    assert useful_flops([1], 2, 8, 32, "first token") == useful_flops([1], 2, 8, 32)


def test_the_limits_are_measured() -> None:
    assert matmul_limit("float32", seconds=0.05) > 1e9
    assert matmul_limit("int8", seconds=0.05) > 1e9
