"""The weights of a BERT-like encoder layer, and what it computes from them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from rerank_plugins.backends.torch.attention import Packing, attend
from rerank_plugins.config import Optimize

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


def seen_by_first(
    mixing: Linear,
    hidden: torch.Tensor,
    packing: Packing,
    *,
    heads: tuple[int, int],
    scaling: float,
) -> torch.Tensor:
    """Attend from the first token of each sequence, without keys and values of all tokens.

    ``q (h K)`` is ``(q K) h``: where few tokens ask, it is cheaper to bring what their heads
    ask to the width of the states than every state to keys and values. What the bias of the
    keys adds is the same for all tokens, so that it does not change where a head looks; the
    weights of what is seen add up to one, so that the bias of the values is added once.

    Args:
        mixing: Into query, key and value.
        hidden: The states of all tokens, shape ``(tokens, width)``.
        packing: Where sequences begin and end.
        heads: Their number and width.
        scaling: Factor of the dot products.

    Returns:
        Shape ``(sequences, width of all heads)``.
    """
    query, key, value = mixing.thirds
    asked = torch.addmm(query.bias, hidden[packing.firsts], query.weight).view(-1, *heads)
    to_states = key.weight.view(-1, *heads).permute(1, 2, 0)
    asking = torch.bmm(asked.transpose(0, 1), to_states).transpose(0, 1)
    seen = torch.empty_like(asking, memory_format=torch.contiguous_format)
    row = 0
    for start, count, length in packing.groups:
        rows = slice(row, row + count)
        states = hidden[start : start + count * length].view(count, 1, length, -1)
        asks = asking[rows].unsqueeze(1)
        seen[rows] = scaled_dot_product_attention(asks, states, states, scale=scaling)[:, 0]
        row += count
    from_states = value.weight.view(-1, *heads).transpose(0, 1)
    return torch.bmm(seen.transpose(0, 1), from_states).transpose(0, 1).flatten(1) + value.bias


_GELU: Final = "gelu"


class Buffers(threading.local):
    """Memory that is used again by its thread; it grows to the largest that was asked for."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._flat: dict[str, torch.Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
        """Return a buffer of a shape, of the kind of another tensor; its content is anything."""
        flat = self._flat.get(name)
        if flat is None or len(flat) < rows * columns:
            flat = self._flat[name] = like.new_empty(rows * columns)
        return flat[: rows * columns].view(rows, columns)


class BertLayers:
    """All layers of an encoder; several threads may call it at once, unless it is compiled."""

    def __init__(
        self,
        encoder: Any,  # noqa: ANN401  (one of many classes)
        *,
        optimize: Optimize = "none",
        whole: bool = False,
    ) -> None:
        """Use the weights of an encoder of the families of BERT, RoBERTa and ELECTRA.

        Args:
            encoder: It.
            optimize: Whether and how to compile what follows the attention in a layer. The
                number of tokens is dynamic, so that the layers are compiled once. With
                ``"reduce-overhead"``, all calls must come from one thread.
            whole: Whether all tokens are computed in the last layer, or the first ones alone.
        """
        attention = encoder.layer[0].attention.self
        layers = [Layer.of(layer) for layer in encoder.layer]
        self._layers = folded(layers)
        self._expected = layers[0].mixed.bias
        self._heads = (attention.num_attention_heads, attention.attention_head_size)
        self._scaling = float(attention.scaling)
        own = encoder.layer[0].intermediate.intermediate_act_fn
        in_place = encoder.config.hidden_act == _GELU
        self._activate: Activate = torch.ops.aten.gelu_ if in_place else own
        self._compiled = None
        self._cuda_graphs = optimize == "reduce-overhead"
        if optimize != "none":
            mode = "reduce-overhead" if self._cuda_graphs else "default"
            self._compiled = torch.compile(partial(finish, own), mode=mode)
        if self._cuda_graphs:
            # CUDA graphs copy their inputs, except those whose address is static.
            for weights in chain.from_iterable(chain.from_iterable(self._layers)):
                if isinstance(weights, torch.Tensor):
                    torch._dynamo.mark_static_address(weights)  # noqa: SLF001
        self._buffers = Buffers()
        self._whole = whole

    def __call__(self, hidden: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Compute what the result is read off.

        Args:
            hidden: The embedded tokens, shape ``(tokens, width)``.
            packing: Where sequences begin and end.

        Returns:
            The last layer's output for the first token of each sequence, of shape
            ``(sequences, width)``; for all tokens, of shape ``(tokens, width)``, if it is whole.
        """
        if self._cuda_graphs:
            # A graph overwrites the outputs of the previous step, and a step is all layers: each
            # reads the output of the one before. Nothing that is returned is a graph's output.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        hidden = hidden + self._expected
        for layer in self._layers if self._whole else self._layers[:-1]:
            query, key, value = self._parts(layer.mixing, hidden)
            seen = self._attend(query, key, value, packing)
            if self._compiled is None:
                hidden = self._finish(layer, hidden, seen)
            else:
                torch._dynamo.mark_dynamic(hidden, 0)  # noqa: SLF001  (its documented place)
                torch._dynamo.mark_dynamic(seen, 0)  # noqa: SLF001
                hidden = self._compiled(layer, hidden, seen)
        if self._whole:
            return hidden.clone() if self._cuda_graphs else hidden
        layer, first = self._layers[-1], hidden[packing.firsts]
        if packing.flash:
            inputs = (first, hidden, hidden)
            query, key, value = (
                torch.addmm(part.bias, states, part.weight).view(len(states), *self._heads)
                for part, states in zip(layer.mixing.thirds, inputs, strict=True)
            )
            seen = self._attend(query, key, value, packing)
        else:
            seen = seen_by_first(
                layer.mixing, hidden, packing, heads=self._heads, scaling=self._scaling
            )
        return self._finish(layer, first, seen)

    def _parts(self, linear: Linear, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return query, key and value, each of shape ``(tokens, heads, width)``."""
        buffer = self._buffers.take("parts", len(hidden), len(linear.bias), hidden)
        together = torch.addmm(linear.bias, hidden, linear.weight, out=buffer)
        return together.view(len(hidden), 3, *self._heads).unbind(1)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing
    ) -> torch.Tensor:
        width = self._heads[0] * self._heads[1]
        buffer = self._buffers.take("seen", len(query), width, query)
        seen = attend(query, key, value, packing, scaling=self._scaling, out=buffer.view_as(query))
        return seen.flatten(1)

    def _finish(self, layer: Layer, hidden: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return a layer's output for rows of its input, which it uses up, and what they saw."""
        hidden = self._joined(hidden, seen, layer.mixed, layer.mixed_norm)
        buffer = self._buffers.take("up", len(hidden), len(layer.up.bias), hidden)
        inner = self._activate(torch.addmm(layer.up.bias, hidden, layer.up.weight, out=buffer))
        return self._joined(hidden, inner, layer.down, layer.down_norm)

    def _joined(
        self, hidden: torch.Tensor, inner: torch.Tensor, linear: Linear, norm: Norm
    ) -> torch.Tensor:
        """Return the norm of a residual, where the sum is written, and a product."""
        return layer_norm(hidden.addmm_(inner, linear.weight), norm.weight.shape, *norm)
