"""Torch modules that are exported to OpenVINO, and their conversion to an OpenVINO graph.

The conversion uses OpenVINO's PyTorch frontend directly: ``openvino.convert_model`` reports its
use to a server.
"""

from __future__ import annotations

import warnings
from typing import Any, Final, Protocol

import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from sentence_transformers import SentenceTransformer

from rerank_plugins.backends.torch.loading import first_position
from rerank_plugins.backends.torch.modular import ModularModel
from rerank_plugins.backends.torch.packing import is_bert_like, pooling_of
from rerank_plugins.errors import ModelLoadError

_MASK_BIAS: Final = -10_000.0
"""Added to the attention logits of padding, whose weight is then 0 in float32."""


class Exportable(Protocol):
    """A torch module to export.

    Attributes:
        inputs: Number of its inputs, int64 tensors of shape ``(rows, width)``: ids, mask and, if
            there are three, token types.
        float32_patterns: Patterns of operator names that stay float32 in an int8 model.
    """

    inputs: int
    float32_patterns: tuple[str, ...]


def to_openvino(module: Exportable) -> openvino.Model:
    """Trace a module; the numbers of rows and of tokens stay dynamic."""
    inputs = module.inputs
    example = [torch.ones(2, 12, dtype=torch.int64) for _ in range(inputs)]
    example[1][1, 7:] = 0
    if inputs > 2:  # noqa: PLR2004  (ids, mask, types)
        example[2].zero_()
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracer warns about values that become constants. A wrong constant changes scores,
        # and these are compared with torch's at every load.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(module, example_input=tuple(example))
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape(dict.fromkeys(range(inputs), openvino.PartialShape([-1, -1])))
    return model


def classifier_module(model: Any, *, typed: bool) -> Exportable:  # noqa: ANN401
    """Return the module to export for a reranker.

    Args:
        model: A sequence classification model.
        typed: Whether its tokenizer returns token types.
    """
    if is_bert_like(model) and not isinstance(model, ModularModel):
        return ClsOnlyClassifier(model)
    return Classifier(model, typed=typed)


class ClsOnlyClassifier(torch.nn.Module):
    """A BERT-like reranker that computes its last layer for the first token only."""

    inputs: int = 3
    float32_patterns: tuple[str, ...]

    def __init__(self, model: Any) -> None:  # noqa: ANN401  (one of many model classes)
        """Wrap a sequence classification model."""
        super().__init__()
        self._model = model
        self._base = getattr(model, model.base_model_prefix)
        self._first_position = first_position(model)
        # Computation for one token per row is cheap, and it determines the score.
        last = rf".*\.layer\.{len(self._base.encoder.layer) - 1}\."
        self.float32_patterns = (
            rf"{last}(attention\.self\.query|attention\.output|intermediate|output)\..*",
            r".*(pooler|classifier)\..*",
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Return relevance logits of shape ``(rows,)`` for inputs of shape ``(rows, width)``."""
        base = self._base
        positions = torch.arange(ids.shape[1])[None] + self._first_position
        hidden = base.embeddings(input_ids=ids, token_type_ids=types, position_ids=positions)
        if hasattr(base, "embeddings_project"):  # ELECTRA
            hidden = base.embeddings_project(hidden)
        bias = ((1.0 - mask.float()) * _MASK_BIAS)[:, None, None, :]
        for layer in base.encoder.layer[:-1]:
            hidden = _layer_output(layer, hidden, hidden, bias)
        first = _layer_output(base.encoder.layer[-1], hidden[:, :1], hidden, bias)
        pooler = getattr(base, "pooler", None)
        logits: torch.Tensor = self._model.classifier(first if pooler is None else pooler(first))
        return logits[:, -1]


class Classifier(torch.nn.Module):
    """A reranker of any other architecture, unchanged."""

    def __init__(self, model: Any, *, typed: bool) -> None:  # noqa: ANN401
        """Wrap a sequence classification model, which may read token types."""
        super().__init__()
        self._model = model
        self.inputs = 3 if typed else 2
        self.float32_patterns: tuple[str, ...] = (r".*classifier\..*",)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return relevance logits of shape ``(rows,)`` for inputs of shape ``(rows, width)``."""
        options = {} if types is None else {"token_type_ids": types}
        logits: torch.Tensor = self._model(input_ids=ids, attention_mask=mask, **options).logits
        return logits[:, -1]


class PooledEncoder(torch.nn.Module):
    """A transformer with mean or CLS pooling; its vectors are not normalized.

    Attributes:
        inputs: See :class:`Exportable`.
        float32_patterns: See :class:`Exportable`.
    """

    float32_patterns: tuple[str, ...] = ()

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        """Wrap a bi-encoder.

        Raises:
            ModelLoadError: If it has modules other than the supported ones.
        """
        super().__init__()
        modules: list[Any] = list(model)
        pooling = pooling_of(model)
        if pooling is None:
            kinds = ", ".join(type(module).__name__ for module in modules)
            mode = getattr(modules[1], "pooling_mode", None) if len(modules) > 1 else None
            message = (
                f"{name!r} consists of {kinds} (pooling {mode!r}); backend 'openvino' supports a "
                "Transformer, mean or CLS pooling that includes prompts, and Normalize. Use "
                "backend='sentence-transformers'."
            )
            raise ModelLoadError(message)
        self._mean = pooling == "mean"
        self._encoder = modules[0].auto_model
        typed = "token_type_ids" in model.tokenizer.model_input_names
        self.inputs = 3 if typed else 2

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return vectors of shape ``(rows, dimension)`` for inputs of shape ``(rows, width)``."""
        options = {} if types is None else {"token_type_ids": types}
        output = self._encoder(input_ids=ids, attention_mask=mask, **options)
        hidden: torch.Tensor = output.last_hidden_state
        if not self._mean:
            return hidden[:, 0]
        weight = mask[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


def _layer_output(
    layer: Any,  # noqa: ANN401  (one of many layer classes)
    inputs: torch.Tensor,
    hidden: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    """Return the output of a layer for some of its input tokens, which attend to all of them."""
    attention = layer.attention.self

    def heads(projected: torch.Tensor) -> torch.Tensor:
        rows, width = projected.shape[:2]
        return projected.view(rows, width, -1, attention.attention_head_size).transpose(1, 2)

    context = torch.nn.functional.scaled_dot_product_attention(
        heads(attention.query(inputs)),
        heads(attention.key(hidden)),
        heads(attention.value(hidden)),
        attn_mask=bias,
        scale=attention.scaling,
    )
    attended = layer.attention.output(context.transpose(1, 2).flatten(2), inputs)
    output: torch.Tensor = layer.output(layer.intermediate(attended), attended)
    return output
