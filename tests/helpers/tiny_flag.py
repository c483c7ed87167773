"""Tiny random models of FlagEmbedding's two architectures, in the format of BAAI's models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Gemma2Config, Gemma2Model, GraniteConfig, GraniteModel

from tests.helpers.tiny_decoders import LAYERS, decoder_tokenizer, sizes

START_LAYER = 2


def _save(folder: Path, base: torch.nn.Module, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(11)
    tensors = {f"model.{name}": value.clone() for name, value in base.state_dict().items()}
    for number in range(LAYERS + 1 - START_LAYER):
        tensors[f"lm_head.{number}.linear_head.weight"] = torch.randn(1, config["hidden_size"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    decoder_tokenizer().save_pretrained(folder)
    return folder


def save_layerwise(folder: Path) -> Path:
    """Save a random layerwise MiniCPM; return its folder."""
    shape = {**sizes(decoder_tokenizer()), "scale_emb": 3.0, "scale_depth": 1.4}
    shape.pop("head_dim")
    scales = {"scale_emb", "scale_depth"}
    torch.manual_seed(7)
    base = GraniteModel(
        GraniteConfig(
            **{name: value for name, value in shape.items() if name not in scales},
            embedding_multiplier=shape["scale_emb"],
            residual_multiplier=shape["scale_depth"] / math.sqrt(LAYERS),
            attention_multiplier=8**-0.5,
        )
    )
    config = {
        **shape,
        "architectures": ["LayerWiseMiniCPMForCausalLM"],
        "model_type": "minicpm",
        "start_layer": START_LAYER,
        "head_multi": True,
        "head_type": "simple",
        "dim_model_base": 16,
        "rope_theta": 10000.0,
    }
    return _save(folder, base, config)


def save_lightweight(folder: Path) -> Path:
    """Save a random Gemma 2 with a head at each layer; return its folder."""
    shape = {
        **sizes(decoder_tokenizer()),
        "query_pre_attn_scalar": 8,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "rope_theta": 10000.0,
    }
    torch.manual_seed(7)
    base = Gemma2Model(Gemma2Config(**{k: v for k, v in shape.items() if k != "rope_theta"}))
    config = {
        **shape,
        "architectures": ["CostWiseGemmaForCausalLM"],
        "model_type": "cost_wise_gemma",
        "layer_wise": True,
        "start_layer": START_LAYER,
        "layer_sep": 1,
    }
    return _save(folder, base, config)
