"""Tiny random bi-encoders of the families in docs/models.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from tests.helpers.tiny_decoders import CONFIGS, decoder_tokenizer, sizes
from tests.helpers.tiny_models import ARCHITECTURES, WIDTHS


def save_dense(
    architecture: str,
    folder: Path,
    *,
    pooling: str | None = None,
    prompts: dict[str, str] | None = None,
    name: str = "model",
) -> Path:
    """Save a bi-encoder; the default pooling is cls for encoders and lasttoken for decoders."""
    torch.manual_seed(7)
    plain = folder / "plain"
    if architecture in CONFIGS:
        tokenizer = decoder_tokenizer(ending=True)
        base: Any = transformers.AutoModel.from_config(CONFIGS[architecture](**sizes(tokenizer)))
        default = "lasttoken"
    else:
        make_model, make_tokenizer = ARCHITECTURES[architecture]
        tokenizer = make_tokenizer()
        classifier: Any = make_model(num_labels=1, initializer_range=0.3, **WIDTHS)
        base, default = classifier.base_model, "cls"
    base.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    width = WIDTHS["hidden_size"]
    modules: list[Any] = [Transformer(str(plain)), Pooling(width, pooling or default), Normalize()]
    model = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    model.save_pretrained(str(folder / name))
    return folder / name
