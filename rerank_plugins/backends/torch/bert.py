"""The layers of BERT-like encoders over packed tokens, in buffers that are used again.

What torch's own modules lose on a CPU is memory traffic: results of some megabytes come from
the system anew at every layer, page by page, and biases and residuals are added in passes of
their own. Here a layer writes into the same few buffers as the one before it, query, key and
value are one product, and a residual, in which the product's bias already is, is what a
product is added to.
"""

from __future__ import annotations

import threading
from functools import partial
from itertools import chain
from typing import Any, Final

import torch
from torch.nn.functional import layer_norm

from rerank_plugins.backends.torch.attention import Packing, attend
from rerank_plugins.backends.torch.first_token import seen_by_first
from rerank_plugins.backends.torch.layers import Activate, Layer, Linear, Norm, finish, folded
from rerank_plugins.core.config import Optimize

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
