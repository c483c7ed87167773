"""Encoder layers of BERT, RoBERTa and ELECTRA over packed sequences."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from rerank_plugins.backends.torch.attention import Packing, attend
from rerank_plugins.config import Optimize

Activation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class BertLayers:
    """All layers of an encoder; several threads may call it at once, unless it is compiled."""

    def __init__(
        self,
        encoder: Any,  # noqa: ANN401  (one of many classes)
        *,
        optimize: Optimize = "none",
        all_tokens: bool = False,
    ) -> None:
        """Use the weights of a transformers encoder.

        Args:
            encoder: Encoder of the families of BERT, RoBERTa and ELECTRA.
            optimize: Whether and how to compile the part of a layer after attention. The number of
                tokens is dynamic, so the layers are compiled once. With ``"reduce-overhead"``, all
                calls must come from one thread.
            all_tokens: Whether the last layer computes all tokens, or only the first of each
                sequence.
        """
        attention = encoder.layer[0].attention.self
        layers = [Layer.of(layer) for layer in encoder.layer]
        self._layers = fold_biases(layers)
        self._input_bias = layers[0].attention_output.bias
        self._heads = (attention.num_attention_heads, attention.attention_head_size)
        self._scaling = float(attention.scaling)
        self._all_tokens = all_tokens
        self._buffers = Buffers()
        activation = encoder.layer[0].intermediate.intermediate_act_fn
        is_gelu = encoder.config.hidden_act == "gelu"
        self._activation: Activation = torch.ops.aten.gelu_ if is_gelu else activation  # in place
        self._compiled = None
        if optimize != "none":
            mode = "default" if optimize == "compile" else optimize
            self._compiled = torch.compile(partial(finish_layer, activation), mode=mode)
        self._cuda_graphs = optimize == "reduce-overhead"
        if self._cuda_graphs:
            # CUDA graphs copy their inputs, except those whose address is static.
            for weights in chain.from_iterable(chain.from_iterable(self._layers)):
                if isinstance(weights, torch.Tensor):
                    torch._dynamo.mark_static_address(weights)  # noqa: SLF001

    def __call__(self, hidden: torch.Tensor, packing: Packing) -> torch.Tensor:
        """Compute the output of the last layer for embedded tokens of shape ``(tokens, width)``.

        Returns:
            The output for the first token of each sequence, of shape ``(sequences, width)``, or
            with ``all_tokens`` for every token, of shape ``(tokens, width)``.
        """
        if self._cuda_graphs:
            # A graph overwrites the outputs of the previous step. All layers are one step, because
            # each reads the output of the layer before. No graph output is ever returned.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        hidden = hidden + self._input_bias
        for layer in self._layers if self._all_tokens else self._layers[:-1]:
            query, key, value = self._project(layer.qkv, hidden)
            context = self._attend(query, key, value, packing)
            if self._compiled is None:
                hidden = self._finish(layer, hidden, context)
            else:
                torch._dynamo.mark_dynamic(hidden, 0)  # noqa: SLF001  (documented for users)
                torch._dynamo.mark_dynamic(context, 0)  # noqa: SLF001
                hidden = self._compiled(layer, hidden, context)
        if self._all_tokens:
            return hidden.clone() if self._cuda_graphs else hidden
        layer, first = self._layers[-1], hidden[packing.starts]
        if packing.flash:
            inputs = (first, hidden, hidden)
            query, key, value = (
                torch.addmm(linear.bias, states, linear.weight).view(len(states), *self._heads)
                for linear, states in zip(layer.qkv.split(), inputs, strict=True)
            )
            context = self._attend(query, key, value, packing)
        else:
            context = attend_cls_only(
                layer.qkv, hidden, packing, heads=self._heads, scaling=self._scaling
            )
        return self._finish(layer, first, context)

    def _project(self, qkv: Linear, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return query, key and value, each of shape ``(tokens, heads, width)``."""
        buffer = self._buffers.get("qkv", len(hidden), len(qkv.bias), hidden)
        projected = torch.addmm(qkv.bias, hidden, qkv.weight, out=buffer)
        return projected.view(len(hidden), 3, *self._heads).unbind(1)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing
    ) -> torch.Tensor:
        width = self._heads[0] * self._heads[1]
        buffer = self._buffers.get("context", len(query), width, query)
        context = attend(
            query, key, value, packing, scaling=self._scaling, out=buffer.view_as(query)
        )
        return context.flatten(1)

    def _finish(self, layer: Layer, hidden: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Compute :func:`finish_layer` with as little memory as possible; ``hidden`` is reused."""
        hidden = _add_and_normalize(hidden, context, layer.attention_output, layer.attention_norm)
        buffer = self._buffers.get("up", len(hidden), len(layer.up.bias), hidden)
        up = torch.addmm(layer.up.bias, hidden, layer.up.weight, out=buffer)
        return _add_and_normalize(hidden, self._activation(up), layer.down, layer.output_norm)


class Linear(NamedTuple):
    """A linear layer.

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

    def split(self) -> tuple[Linear, Linear, Linear]:
        """Return the layers of query, key and value, whose outputs are concatenated."""
        query, key, value = map(Linear, self.weight.chunk(3, 1), self.bias.chunk(3))
        return query, key, value

    def compensate(self, shift: torch.Tensor) -> Linear:
        """Return a layer with the same outputs if a shift is added to each row of its input."""
        bias = torch.addmv(self.bias.float(), self.weight.t().float(), shift.float(), alpha=-1)
        return Linear(self.weight, bias.to(self.bias.dtype))


class Norm(NamedTuple):
    """The weight, bias and epsilon of a layer norm."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    @classmethod
    def of(cls, module: torch.nn.LayerNorm) -> Norm:
        """Use the weights of a module."""
        return cls(module.weight.detach(), module.bias.detach(), module.eps)

    def add_bias(self, bias: torch.Tensor) -> Norm:
        """Return a norm that adds a further bias to its output."""
        return self._replace(bias=self.bias + bias)


class Layer(NamedTuple):
    """The weights of an encoder layer.

    Attributes:
        qkv: Query, key and value projections, concatenated: shape ``(width, 3 * width)``.
        up: First projection of the feed-forward network.
        down: Second projection of the feed-forward network.
    """

    qkv: Linear
    attention_output: Linear
    up: Linear
    down: Linear
    attention_norm: Norm
    output_norm: Norm

    @classmethod
    def of(cls, layer: Any) -> Layer:  # noqa: ANN401  (a layer of one of many classes)
        """Use the weights of a layer; its query, key and value become views of one tensor."""
        modules = [getattr(layer.attention.self, name) for name in ("query", "key", "value")]
        weight = torch.cat([module.weight.detach() for module in modules])
        bias = torch.cat([module.bias.detach() for module in modules])
        views = zip(modules, weight.chunk(3), bias.chunk(3), strict=True)
        for module, weight_view, bias_view in views:
            module.weight.data, module.bias.data = weight_view, bias_view
        return cls(
            Linear(weight.t(), bias),
            Linear.of(layer.attention.output.dense),
            Linear.of(layer.intermediate.dense),
            Linear.of(layer.output.dense),
            Norm.of(layer.attention.output.LayerNorm),
            Norm.of(layer.output.LayerNorm),
        )


def fold_biases(layers: list[Layer]) -> list[Layer]:
    """Return equivalent layers in which each norm adds the bias of the next residual sum.

    If the residual stream already contains the bias of the product that is added to it next,
    adding that product takes one pass less over all states. The preceding norm adds the bias, and
    the projection that reads its output subtracts it in its own bias. The input of the first
    layer must have ``attention_output.bias`` added.
    """
    folded = [
        layer._replace(
            qkv=layer.qkv.compensate(layer.attention_output.bias),
            attention_norm=layer.attention_norm.add_bias(layer.down.bias),
            up=layer.up.compensate(layer.down.bias),
        )
        for layer in layers
    ]
    for number, following in enumerate(layers[1:]):
        norm = folded[number].output_norm.add_bias(following.attention_output.bias)
        folded[number] = folded[number]._replace(output_norm=norm)
    return folded


def finish_layer(
    activation: Activation, layer: Layer, hidden: torch.Tensor, context: torch.Tensor
) -> torch.Tensor:
    """Return the output of a layer with folded biases; a pure function, to be compiled.

    ``hidden`` is its input, and ``context`` the output of its attention: ``(tokens, width)`` both.
    """
    attended = torch.addmm(hidden, context, layer.attention_output.weight)
    attended = layer_norm(attended, layer.attention_norm.weight.shape, *layer.attention_norm)
    inner = activation(torch.addmm(layer.up.bias, attended, layer.up.weight))
    output = torch.addmm(attended, inner, layer.down.weight)
    return layer_norm(output, layer.output_norm.weight.shape, *layer.output_norm)


def _add_and_normalize(
    residual: torch.Tensor, inputs: torch.Tensor, linear: Linear, norm: Norm
) -> torch.Tensor:
    """Add a product to a residual in place, and return the norm of the sum."""
    return layer_norm(residual.addmm_(inputs, linear.weight), norm.weight.shape, *norm)


def attend_cls_only(
    qkv: Linear, hidden: torch.Tensor, packing: Packing, *, heads: tuple[int, int], scaling: float
) -> torch.Tensor:
    """Attend from the first token of each sequence, without keys and values of all tokens.

    ``q (h K)`` equals ``(q K) h``: for few queries, it is cheaper to project the queries to the
    width of the states than all states to keys and values. The bias of the keys adds the same to
    all logits of a query, which softmax ignores. Attention weights add up to one, so the bias of
    the values is added once.

    Returns:
        The context, of shape ``(sequences, width of all heads)``.
    """
    query, key, value = qkv.split()
    queries = torch.addmm(query.bias, hidden[packing.starts], query.weight).view(-1, *heads)
    to_states = key.weight.view(-1, *heads).permute(1, 2, 0)
    state_queries = torch.bmm(queries.transpose(0, 1), to_states).transpose(0, 1)
    averages = torch.empty_like(state_queries, memory_format=torch.contiguous_format)
    row = 0
    for start, count, length in packing.groups:
        rows = slice(row, row + count)
        states = hidden[start : start + count * length].view(count, 1, length, -1)
        averages[rows] = scaled_dot_product_attention(
            state_queries[rows].unsqueeze(1), states, states, scale=scaling
        )[:, 0]
        row += count
    from_states = value.weight.view(-1, *heads).transpose(0, 1)
    return torch.bmm(averages.transpose(0, 1), from_states).transpose(0, 1).flatten(1) + value.bias


class Buffers(threading.local):
    """Buffers that each thread reuses; they grow to the largest requested size."""

    def __init__(self) -> None:
        """Start without buffers."""
        self._flat: dict[str, torch.Tensor] = {}

    def get(self, name: str, rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
        """Return an uninitialized buffer, with the data type and device of another tensor."""
        flat = self._flat.get(name)
        if flat is None or len(flat) < rows * columns:
            flat = self._flat[name] = like.new_empty(rows * columns)
        return flat[: rows * columns].view(rows, columns)
