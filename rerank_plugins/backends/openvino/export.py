"""From a transformers model to an OpenVINO graph, the last layer for the first token only.

The conversion calls OpenVINO's PyTorch frontend itself: ``openvino.convert_model`` reports
its use to a server.
"""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from sentence_transformers import SentenceTransformer

from rerank_plugins.backends.torch.loading import first_position
from rerank_plugins.backends.torch.modular import ModularModel
from rerank_plugins.backends.torch.packing import is_bert_like, pooling_of
from rerank_plugins.errors import ModelLoadError

_MASKED = -10_000.0
"""Added to the scores of padding: its weight is 0 in float32."""


class FirstTokenScores(torch.nn.Module):
    """A BERT-like reranker that computes its last layer for the first token alone."""

    inputs: int = 3
    exact: tuple[str, ...]

    def __init__(self, model: Any) -> None:  # noqa: ANN401  (one of many model classes)
        """Wrap a sequence classification model."""
        super().__init__()
        self._model = model
        self._base = getattr(model, model.base_model_prefix)
        self._first_position = first_position(model)
        # What is computed for one token of each row costs next to nothing, and decides.
        last = rf".*\.layer\.{len(self._base.encoder.layer) - 1}\."
        self.exact = (
            rf"{last}(attention\.self\.query|attention\.output|intermediate|output)\..*",
            r".*(pooler|classifier)\..*",
        )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Return the logits of relevance, shape ``(rows,)``, of inputs ``(rows, width)``."""
        base = self._base
        positions = torch.arange(ids.shape[1])[None] + self._first_position
        hidden = base.embeddings(input_ids=ids, token_type_ids=types, position_ids=positions)
        if hasattr(base, "embeddings_project"):  # ELECTRA
            hidden = base.embeddings_project(hidden)
        bias = ((1.0 - mask.float()) * _MASKED)[:, None, None, :]
        for layer in base.encoder.layer[:-1]:
            hidden = _layer(layer, hidden, hidden, bias)
        first = _layer(base.encoder.layer[-1], hidden[:, :1], hidden, bias)
        pooler = getattr(base, "pooler", None)
        logits: torch.Tensor = self._model.classifier(first if pooler is None else pooler(first))
        return logits[:, -1]


class Scores(torch.nn.Module):
    """Any other reranker, as it is."""

    def __init__(self, model: Any, *, typed: bool) -> None:  # noqa: ANN401
        """Wrap a sequence classification model, which may read token types."""
        super().__init__()
        self._model = model
        self.inputs = 3 if typed else 2
        self.exact: tuple[str, ...] = (r".*classifier\..*",)

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits of relevance, shape ``(rows,)``, of inputs ``(rows, width)``."""
        more = {} if types is None else {"token_type_ids": types}
        logits: torch.Tensor = self._model(input_ids=ids, attention_mask=mask, **more).logits
        return logits[:, -1]


class Exportable(Protocol):
    """A torch module to trace.

    Attributes:
        inputs: How many int64 tensors of shape ``(rows, width)`` it takes: ids, the mask, and
            token types if there are three.
        exact: Patterns of names in the graph that stay float32 in int8.
    """

    inputs: int
    exact: tuple[str, ...]


def scoring_module(model: Any, *, typed: bool) -> Exportable:  # noqa: ANN401
    """Return what is exported of a reranker whose tokenizer gives token types, or not."""
    if is_bert_like(model) and not isinstance(model, ModularModel):
        return FirstTokenScores(model)
    return Scores(model, typed=typed)


def to_openvino(module: Exportable) -> openvino.Model:
    """Trace a module, and leave the numbers of rows and their width open."""
    inputs = module.inputs
    example = [torch.ones(2, 12, dtype=torch.int64) for _ in range(inputs)]
    example[1][1, 7:] = 0
    if inputs > 2:  # noqa: PLR2004  (ids, mask, types)
        example[2].zero_()
    with warnings.catch_warnings(), torch.inference_mode():
        # What tracing fixes by mistake would show in the check of scores at every load.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(module, example_input=tuple(example))
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
    model.reshape(dict.fromkeys(range(inputs), openvino.PartialShape([-1, -1])))
    return model


def _layer(
    layer: Any,  # noqa: ANN401  (one of many layer classes)
    asking: torch.Tensor,
    hidden: torch.Tensor,
    bias: torch.Tensor,
) -> torch.Tensor:
    attention = layer.attention.self

    def heads(projected: torch.Tensor) -> torch.Tensor:
        rows, width = projected.shape[:2]
        return projected.view(rows, width, -1, attention.attention_head_size).transpose(1, 2)

    seen = torch.nn.functional.scaled_dot_product_attention(
        heads(attention.query(asking)),
        heads(attention.key(hidden)),
        heads(attention.value(hidden)),
        attn_mask=bias,
        scale=attention.scaling,
    )
    mixed = layer.attention.output(seen.transpose(1, 2).flatten(2), asking)
    output: torch.Tensor = layer.output(layer.intermediate(mixed), mixed)
    return output


class Embeddings(torch.nn.Module):
    """A transformer and the mean of its tokens, or its first one; not normalized.

    Attributes:
        inputs: See :class:`~rerank_plugins.backends.openvino.export.Exportable`.
        exact: Likewise.
    """

    exact: tuple[str, ...] = ()

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        """Wrap a bi-encoder of modules that are known here.

        Raises:
            ModelLoadError: If it has others.
        """
        super().__init__()
        modules: list[Any] = list(model)
        pooling = pooling_of(model)
        if pooling is None:
            found = ", ".join(type(module).__name__ for module in modules)
            own = getattr(modules[1], "pooling_mode", None) if len(modules) > 1 else None
            message = (
                f"{name!r} is made of {found} (pooling {own!r}); backend 'openvino' knows a "
                "Transformer, the mean of its tokens or the first one, prompts included, and "
                "Normalize. Use backend='sentence-transformers'."
            )
            raise ModelLoadError(message)
        self._mean = pooling == "mean"
        self._encoder = modules[0].auto_model
        typed = "token_type_ids" in model.tokenizer.model_input_names
        self.inputs = 3 if typed else 2

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return vectors of shape ``(rows, dimension)`` of inputs ``(rows, width)``."""
        more = {} if types is None else {"token_type_ids": types}
        found = self._encoder(input_ids=ids, attention_mask=mask, **more)
        hidden: torch.Tensor = found.last_hidden_state
        if not self._mean:
            return hidden[:, 0]
        weight = mask[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)
