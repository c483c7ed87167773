"""Tiny models and reference scores of every architecture in docs/models.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from rerank_plugins.backends.model_specs import FlagSpec
from rerank_plugins.types import FloatArray
from tests.helpers import tiny_decoders, tiny_flag
from tests.helpers.decoder_reference import prompted_scores
from tests.helpers.flag_reference import flag_llm_scores, layerwise_scores, lightweight_scores
from tests.helpers.tiny_decoders import CHAT_TEMPLATE
from tests.helpers.tiny_models import save_reranker
from tests.helpers.tiny_modular import save_modular

Pairs = Sequence[tuple[str, str]]


def sentence_transformers_scores(folder: Path, pairs: Pairs) -> FloatArray:
    """Return the raw scores of a sentence-transformers CrossEncoder in float32."""
    model = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    predictions = model.predict(
        list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False, batch_size=4
    )
    scores = np.asarray(predictions, dtype=np.float32)
    return scores if scores.ndim == 1 else scores[:, 1]


class Case(NamedTuple):
    """One architecture.

    Attributes:
        save: Saves a tiny random model in a folder and returns the path of the model.
        backend: Backend that ``"auto"`` chooses.
        library: Library whose scores are the reference.
        reference: Computes the reference scores of pairs.
        model: Makes the ``model`` argument from the path.
        others: Other backends that must give the same scores.
    """

    save: Callable[[Path], Path]
    backend: str
    library: str
    reference: Callable[[Path, Pairs], FloatArray]
    model: Callable[[Path], Any] = Path
    others: tuple[str, ...] = ("sbert",)


def _encoder(architecture: str, labels: int = 1) -> Case:
    save = partial(save_reranker, architecture, labels=labels)
    return Case(save, "torch", "sentence-transformers", sentence_transformers_scores)


def _modular(architecture: str, pooling: str, backend: str) -> Case:
    save = partial(save_modular, architecture, pooling=pooling)
    others = ("sbert", "torch")
    reference = sentence_transformers_scores
    return Case(save, backend, "sentence-transformers", reference, others=others)


def _logit_score(architecture: str, *, no: bool = True) -> Case:
    save = partial(tiny_decoders.save_logit_score, architecture, no=no)
    return Case(save, "decoder", "sentence-transformers", sentence_transformers_scores)


def _classifier(architecture: str, template: str | None = None, labels: int = 1) -> Case:
    save = partial(tiny_decoders.save_classifier, architecture, template=template, labels=labels)
    return Case(save, "decoder", "sentence-transformers", sentence_transformers_scores)


def _named(architecture: str, name: str, family: str) -> Case:
    def save(folder: Path) -> Path:
        return tiny_decoders.save_language_model(architecture, folder / name)

    reference = partial(prompted_scores, family)
    return Case(save, "decoder", "transformers", reference, others=())


def _flag(save: Any, reference: Any, **settings: Any) -> Case:
    def model(folder: Path) -> FlagSpec:
        return FlagSpec(str(folder), **settings)

    return Case(save, "flag", "FlagEmbedding", reference, model, others=())


def _gemma(folder: Path) -> Path:
    return tiny_decoders.save_language_model("gemma", folder / "bge-reranker-v2-gemma")


CASES: dict[str, Case] = {
    "BERT": _encoder("bert"),
    "BERT, two labels": _encoder("bert", labels=2),
    "ELECTRA": _encoder("electra"),
    "RoBERTa": _encoder("roberta"),
    "XLM-RoBERTa": _encoder("xlm-roberta"),
    "DeBERTa-v2": _encoder("deberta"),
    "ModernBERT": _encoder("modernbert"),
    "ModernBERT, modular": _modular("modernbert", "cls", "torch"),
    "ModernBERT, modular, mean pooling": _modular("modernbert", "mean", "sbert"),
    "BERT, modular": _modular("bert", "cls", "torch"),
    "XLM-RoBERTa, modular": _modular("xlm-roberta", "cls", "torch"),
    "DeBERTa-v2, modular": _modular("deberta", "cls", "sbert"),
    "Qwen3, yes and no": _named("qwen3", "Qwen3-Reranker-0.6B", "qwen3"),
    "Qwen3, modular": _logit_score("qwen3"),
    "Qwen3, classifier": _classifier("qwen3", CHAT_TEMPLATE),
    "Qwen3, classifier without prompt": _classifier("qwen3", labels=2),
    "Qwen2, yes and no": _named("qwen2", "mxbai-rerank-base-v2", "mxbai"),
    "Llama, modular": _logit_score("llama", no=False),
    "Llama, classifier": _classifier("llama"),
    "Mistral, modular": _logit_score("mistral"),
    "Gemma, yes": _flag(_gemma, flag_llm_scores),
    "Gemma 2, modular": _logit_score("gemma2"),
    "MiniCPM, layerwise": _flag(
        tiny_flag.save_layerwise, partial(layerwise_scores, cutoff=3), cutoff_layers=3
    ),
    "Gemma 2, lightweight": _flag(
        tiny_flag.save_lightweight,
        partial(lightweight_scores, cutoff=4, compress_ratio=2, compress_layers=[1]),
        cutoff_layers=4,
        compress_ratio=2,
        compress_layers=[1],
    ),
}
