"""What the arithmetic of a machine allows, and what scoring a batch of pairs needs of it.

A share of the limit is ``useful_flops(...) / seconds / matmul_limit(dtype)``. Useful is what the
reference model needs: every real token through every layer, and no padding. A forward pass that
leaves out what the score does not depend on (the last layer of all tokens but the first) is
credited with the whole, so its share says how fast the same scores come, and may exceed 1;
``last_layer="first token"`` counts what such a pass computes.

``python -m benchmarks.limit`` prints the limits of this machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from time import perf_counter
from typing import Final, Literal

import torch
import typer

LastLayer = Literal["all tokens", "first token"]

_SHAPES: Final = ((1024, 1024, 1024), (2048, 1024, 4096), (2048, 4096, 1024), (2048, 384, 1536))
"""Rows, inner and outer dimension: square, and as in the feed-forward layers of encoders."""

_TURNS: Final = 3
"""How often each shape has its turn, so that one slow moment does not decide."""


def matmul_limit(
    dtype: torch.dtype | str = torch.float32, seconds: float = 2.0, device: str = "cpu"
) -> float:
    """Return the floating point operations a second that torch's matrix product reaches here.

    Measured with the threads that torch has now: the median product of the best shape.

    Args:
        dtype: Data type of both matrices, or its name. Sums of int8 are int32, and nothing is
            rounded or scaled; on a CPU only.
        seconds: About how long to measure.
        device: Where to measure.
    """
    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    slot = seconds / (_TURNS * len(_SHAPES))
    rates: dict[tuple[int, int, int], list[float]] = {shape: [] for shape in _SHAPES}
    with torch.inference_mode():
        for _ in range(_TURNS):
            for shape, seen in rates.items():
                seen.extend(_rates(shape, kind, slot, device))
    return max(median(seen) for seen in rates.values())


def _rates(
    shape: tuple[int, int, int], dtype: torch.dtype, seconds: float, device: str
) -> list[float]:
    rows, inner, outer = shape
    # A linear layer, as its weights lie in a model: the second matrix transposed.
    left = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(outer, inner, device=device).to(dtype)
    multiply = _multiply_int8 if dtype == torch.int8 else torch.nn.functional.linear
    multiply(left, weight)
    seen: list[float] = []
    end = perf_counter() + seconds
    while not seen or perf_counter() < end:
        _wait(device)
        start = perf_counter()
        multiply(left, weight)
        _wait(device)
        seen.append(2 * rows * inner * outer / (perf_counter() - start))
    return seen


def _multiply_int8(left: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch._int_mm(left, weight.t())  # noqa: SLF001


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def useful_flops(
    lengths: Iterable[int],
    layers: int,
    width: int,
    ffn: int,
    last_layer: LastLayer = "all tokens",
) -> float:
    """Return the floating point operations that scoring sequences of these lengths needs.

    ``F(s) = layers (8 width^2 + 4 width ffn) s + 4 layers width s^2 + 2 width^2 + 2 width``:
    linear layers, attention in both directions, head. Norms, activations and embeddings are not
    counted: they are no matrix products.

    Args:
        lengths: Tokens of each pair, without padding.
        layers: Encoder layers.
        width: Hidden size.
        ffn: Width of the feed-forward layers.
        last_layer: ``"all tokens"`` is what the reference model needs; ``"first token"`` what
            remains if queries and feed-forward of the last layer are those of one token.
    """
    total = 0.0
    for length in lengths:
        total += layers * (8 * width**2 + 4 * width * ffn) * length
        total += 4 * layers * width * length**2 + 2 * width**2 + 2 * width
        if last_layer == "first token":
            total -= (4 * width**2 + 4 * width * ffn) * (length - 1)
            total -= 4 * width * length * (length - 1)
    return total


def main(seconds: float = 4.0) -> None:
    """Print the limits of this machine in GFLOP/s."""
    for name in ("float32", "bfloat16", "int8"):
        typer.echo(f"{name}: {matmul_limit(name, seconds) / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    typer.run(main)
