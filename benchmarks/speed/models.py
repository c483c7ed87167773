"""The timed models: the embedded one, and random models of common sizes.

Every system loads the same folder, in float32. Speed does not depend on the weights, so nothing is
downloaded.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from rerank_plugins.backends.hub import cross_encoder_folder

SEED: Final = 7
SPREAD: Final = 0.05
"""Standard deviation of random weights: enough for scores that differ between texts."""


@dataclass(frozen=True)
class Shape:
    """Size of an encoder.

    Attributes:
        title: Its name.
        layers: Layers.
        width: Hidden size.
        ffn: Width of the feed-forward layers.
        heads: Attention heads.
        vocabulary: Token embeddings; None for the embedded model's weights and vocabulary.
        family: The architecture.
    """

    title: str
    layers: int
    width: int
    ffn: int
    heads: int
    vocabulary: int | None
    family: str = "bert"


SHAPES: Final = {
    "mini": Shape("MiniLM-L6 (`mini`)", 6, 384, 1_536, 12, None),
    "minilm-l12": Shape("MiniLM-L12", 12, 384, 1_536, 12, 30_522),
    "xlmr-base": Shape("XLM-R-base", 12, 768, 3_072, 12, 250_002, "xlm-roberta"),
    "xlmr-large": Shape("XLM-R-large", 24, 1_024, 4_096, 16, 250_002, "xlm-roberta"),
}


def model_folder(shape: Shape, folder: Path) -> Path:
    """Return a folder with a model of this shape and a tokenizer; create it if it is missing."""
    if (folder / "config.json").is_file():
        return folder
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    source = cross_encoder_folder()
    tokenizer = AutoTokenizer.from_pretrained(source)
    if shape.vocabulary is None:
        # The weights are stored in half precision, which float32 holds exactly.
        model: Any = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32)
    else:
        model = _random(shape, tokenizer)
        if shape.family == "xlm-roberta":
            tokenizer = _without_types(tokenizer)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)
    return folder


def _without_types(tokenizer: Any) -> Any:  # noqa: ANN401  (a class of the model)
    """Return the tokenizer without token types, as in this family."""
    names = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_max_length=tokenizer.model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        **{name: getattr(tokenizer, name) for name in names},
    )


def _random(shape: Shape, tokenizer: Any) -> Any:  # noqa: ANN401  (a class of the model)
    sizes: dict[str, Any] = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "vocab_size": shape.vocabulary,
        "num_labels": 1,
        "initializer_range": SPREAD,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    torch.manual_seed(SEED)
    if shape.family == "bert":
        return BertForSequenceClassification(BertConfig(**sizes))
    config = XLMRobertaConfig(max_position_embeddings=514, type_vocab_size=1, **sizes)
    return XLMRobertaForSequenceClassification(config)
