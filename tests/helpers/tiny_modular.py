"""Tiny random rerankers made of sentence-transformers modules, like the ettin rerankers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from tests.helpers.tiny_models import ARCHITECTURES, WIDTHS


def save_modular(architecture: str, folder: Path, *, pooling: str = "cls") -> Path:
    """Save an encoder with a head of Pooling, Dense, LayerNorm and Dense; return its folder."""
    make_model, make_tokenizer = ARCHITECTURES[architecture]
    torch.manual_seed(7)
    classifier: Any = make_model(num_labels=1, initializer_range=0.3, **WIDTHS)
    encoder = folder / "encoder"
    classifier.base_model.save_pretrained(encoder)
    make_tokenizer().save_pretrained(encoder)
    width = WIDTHS["hidden_size"]
    model = CrossEncoder(
        modules=[
            Transformer(str(encoder)),
            Pooling(width, pooling),
            Dense(width, width, activation_function=torch.nn.GELU()),
            LayerNorm(width),
            Dense(
                width,
                1,
                activation_function=torch.nn.Identity(),
                module_output_name="scores",
            ),
        ],
        device="cpu",
    )
    model.save_pretrained(str(folder / "model"))
    return folder / "model"
