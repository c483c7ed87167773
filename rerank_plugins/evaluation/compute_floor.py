"""How many pairs a second a device can score at best: arithmetic, not a measurement.

The floor counts the matrix products of an encoder (Vaswani et al., 2017) over the rates that a
device is assumed to sustain; the estimate adds the memory traffic of what lies between them, as
unfused kernels cause it. Neither knows of tokenising, of calls, or of batches that are not full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rerank_plugins.errors import ConfigurationError

_TRAFFIC: Final = 22
"""Values read and written a token, a layer and a unit of width, outside matrix products."""

_VALUE_BYTES: Final = 2
"""Of a value in half precision."""


@dataclass(frozen=True)
class EncoderShape:
    """What an encoder's cost depends on.

    Attributes:
        layers: Number of layers.
        width: Size of a hidden state.
        inner: Size of the feed-forward layer.
    """

    layers: int
    width: int
    inner: int

    def linear_flops(self, tokens: int) -> float:
        """Return the operations of the weights' matrix products for one pair."""
        one = 8 * self.width**2 + 4 * self.width * self.inner
        return float(self.layers * one * tokens + 2 * self.width**2 + 2 * self.width)

    def attention_flops(self, tokens: int) -> float:
        """Return the operations of attention for one pair: quadratic in its length."""
        return float(4 * self.layers * self.width * tokens**2)

    def traffic_bytes(self, tokens: int) -> float:
        """Return the bytes that move between matrix products for one pair, unfused."""
        return float(_TRAFFIC * _VALUE_BYTES * self.width * self.layers * tokens)


@dataclass(frozen=True)
class DeviceRates:
    """What a device is assumed to sustain in half precision; below its data sheet.

    Attributes:
        matmul_flops: Operations a second in large matrix products.
        attention_flops: Operations a second in attention.
        memory_bytes: Bytes a second from and to memory.
    """

    matmul_flops: float
    attention_flops: float
    memory_bytes: float


SHAPES: Final = {
    "MiniLM-L6": EncoderShape(6, 384, 1_536),
    "MiniLM-L12": EncoderShape(12, 384, 1_536),
    "XLM-R-base": EncoderShape(12, 768, 3_072),
    "XLM-R-large": EncoderShape(24, 1_024, 4_096),
}
"""``mini`` is a MiniLM-L6; bge-reranker-v2-m3 and bge-reranker-large are an XLM-R-large."""

DEVICES: Final = {
    "H100": DeviceRates(800e12, 300e12, 2.8e12),
    "A10": DeviceRates(70e12, 45e12, 0.5e12),
    "L4": DeviceRates(55e12, 40e12, 0.26e12),
    "RTX 3090": DeviceRates(62e12, 50e12, 0.8e12),
}
"""Assumptions; put your own measurement in their place as soon as you have one."""


def floor_pairs_per_s(shape: EncoderShape, device: DeviceRates, tokens: int) -> float:
    """Return the pairs a second that no implementation exceeds at these rates.

    Args:
        shape: The encoder.
        device: The device.
        tokens: Tokens of a pair, query and document together.

    Raises:
        ConfigurationError: If ``tokens`` is below 1.
    """
    return 1 / _floor_s(shape, device, tokens)


def estimated_pairs_per_s(shape: EncoderShape, device: DeviceRates, tokens: int) -> float:
    """Return the pairs a second of full, packed batches without fused kernels.

    Args:
        shape: The encoder.
        device: The device.
        tokens: Tokens of a pair, query and document together.

    Raises:
        ConfigurationError: If ``tokens`` is below 1.
    """
    moving = shape.traffic_bytes(tokens) / device.memory_bytes
    return 1 / (_floor_s(shape, device, tokens) + moving)


def _floor_s(shape: EncoderShape, device: DeviceRates, tokens: int) -> float:
    if tokens < 1:
        message = f"tokens is {tokens}; it must be at least 1."
        raise ConfigurationError(message)
    return (
        shape.linear_flops(tokens) / device.matmul_flops
        + shape.attention_flops(tokens) / device.attention_flops
    )
