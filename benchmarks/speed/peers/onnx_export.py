"""Writes a model as ONNX: ``python -m benchmarks.speed.peers.onnx_export FOLDER FILE``."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForSequenceClassification

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def main(model: str, file: str) -> None:
    """Export a BERT model in float32, for any number of pairs and tokens."""
    loaded = AutoModelForSequenceClassification.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    example = torch.ones((2, 8), dtype=torch.int64)
    torch.onnx.export(
        loaded,
        (example, example, torch.zeros_like(example)),
        file,
        input_names=list(_INPUTS),
        output_names=["logits"],
        dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in _INPUTS},
        dynamo=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
