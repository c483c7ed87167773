"""The weights of a BERT-like encoder layer, and what it computes from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.nn.functional import layer_norm

Activate: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class Linear(NamedTuple):
    """A product and what is added to it.

    Attributes:
        weight: Shape ``(inputs, outputs)``.
        bias: Shape ``(outputs,)``.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, module: torch.nn.Linear) -> Linear:
        """Use the weights of a module."""
        return cls(module.weight.detach().t(), module.bias.detach())

    @property
    def thirds(self) -> tuple[Linear, Linear, Linear]:
        """Those of query, key and value, which stand one after another among the outputs."""
        first, second, third = map(Linear, self.weight.chunk(3, 1), self.bias.chunk(3))
        return first, second, third

    def without(self, extra: torch.Tensor) -> Linear:
        """Give what this gives, but of inputs to which something was added.

        Args:
            extra: What was added to each row, shape ``(inputs,)``.
        """
        added = torch.addmv(self.bias.float(), self.weight.t().float(), extra.float(), alpha=-1)
        return Linear(self.weight, added.to(self.bias.dtype))


class Norm(NamedTuple):
    """What a layer norm multiplies with, adds, and puts under the root."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    @classmethod
    def of(cls, module: torch.nn.LayerNorm) -> Norm:
        """Use the weights of a module."""
        return cls(module.weight.detach(), module.bias.detach(), module.eps)

    def plus(self, extra: torch.Tensor) -> Norm:
        """Give what this gives, and something more in each row."""
        return self._replace(bias=self.bias + extra)


class Layer(NamedTuple):
    """An encoder layer.

    Attributes:
        mixing: Query, key and value, one after another, of shape ``(width, 3 * width)``.
        mixed: After the attention.
        up: Into the feed-forward layer.
        down: Out of it.
        mixed_norm: After the attention.
        down_norm: After the feed-forward layer.
    """

    mixing: Linear
    mixed: Linear
    up: Linear
    down: Linear
    mixed_norm: Norm
    down_norm: Norm

    @classmethod
    def of(cls, layer: Any) -> Layer:  # noqa: ANN401  (a layer of one of many classes)
        """Use the weights of a layer; those of query, key and value become parts of one."""
        parts = [getattr(layer.attention.self, name) for name in ("query", "key", "value")]
        weight = torch.cat([part.weight.detach() for part in parts])
        bias = torch.cat([part.bias.detach() for part in parts])
        for part, own_weight, own_bias in zip(parts, weight.chunk(3), bias.chunk(3), strict=True):
            part.weight.data, part.bias.data = own_weight, own_bias
        return cls(
            Linear(weight.t(), bias),
            Linear.of(layer.attention.output.dense),
            Linear.of(layer.intermediate.dense),
            Linear.of(layer.output.dense),
            Norm.of(layer.attention.output.LayerNorm),
            Norm.of(layer.output.LayerNorm),
        )

    @property
    def folded(self) -> Layer:
        """The same layer with the biases of residual sums inside of what comes before them.

        A residual stream that already holds the bias of the product that is added next saves a
        pass over all states. The norm before it adds it; the product that reads the norm's output
        takes it away again in its own bias. Input is then expected with ``mixed.bias`` added.
        """
        return self._replace(
            mixing=self.mixing.without(self.mixed.bias),
            mixed_norm=self.mixed_norm.plus(self.down.bias),
            up=self.up.without(self.down.bias),
        )


def folded(layers: list[Layer]) -> list[Layer]:
    """Return the layers as :attr:`Layer.folded`, each giving the input that the next expects."""
    parts = [layer.folded for layer in layers]
    for number, following in enumerate(layers[1:]):
        norm = parts[number].down_norm.plus(following.mixed.bias)
        parts[number] = parts[number]._replace(down_norm=norm)
    return parts


def finish(
    activate: Activate, layer: Layer, hidden: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """Return a layer's output as :class:`BertLayers` does, but as a pure function to compile.

    Args:
        activate: The activation of the feed-forward layer.
        layer: The layer, folded.
        hidden: Its input, shape ``(tokens, width)``.
        seen: What the attention of each token saw, the same shape.
    """
    mixed = torch.addmm(hidden, seen, layer.mixed.weight)
    mixed = layer_norm(mixed, layer.mixed_norm.weight.shape, *layer.mixed_norm)
    inner = activate(torch.addmm(layer.up.bias, mixed, layer.up.weight))
    down = torch.addmm(mixed, inner, layer.down.weight)
    return layer_norm(down, layer.down_norm.weight.shape, *layer.down_norm)
