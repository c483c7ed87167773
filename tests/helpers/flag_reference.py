"""Reference scores of FlagEmbedding.

Its code is for transformers 4. This module adapts how models are built and loaded and how a layer
is called, so that the code runs with transformers 5; the computation is unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer, Gemma2RotaryEmbedding

from rerank_plugins.types import FloatArray

Pairs = Sequence[tuple[str, str]]


def flag_scores(cls: Any, folder: Path, pairs: Pairs, **kwargs: Any) -> FloatArray:
    """Return the scores of a class that runs unchanged."""
    model = cls(str(folder), devices=["cpu"], use_fp16=False)
    return np.asarray(model.compute_score([list(pair) for pair in pairs], **kwargs), np.float32)


def layerwise_scores(folder: Path, pairs: Pairs, cutoff: int) -> FloatArray:
    """Return the scores of LayerWiseLLMReranker with its modeling code."""
    from FlagEmbedding.inference.reranker.decoder_only import layerwise  # noqa: PLC0415
    from FlagEmbedding.inference.reranker.decoder_only.models import (  # noqa: PLC0415
        configuration_minicpm_reranker as configuration,
    )
    from FlagEmbedding.inference.reranker.decoder_only.models import (  # noqa: PLC0415
        modeling_minicpm_reranker as modeling,
    )

    def build(shape: dict[str, Any]) -> Any:
        config = configuration.LayerWiseMiniCPMConfig(**shape)
        config.rope_scaling = None
        config._attn_implementation = "eager"
        config.use_cache = False
        modeling.LayerWiseMiniCPMForCausalLM._tied_weights_keys = None
        return modeling.LayerWiseMiniCPMForCausalLM(config)

    return _compute(layerwise.LayerWiseLLMReranker, build, folder, pairs, cutoff_layers=[cutoff])


def lightweight_scores(folder: Path, pairs: Pairs, cutoff: int, **kwargs: Any) -> FloatArray:
    """Return the scores of LightweightLLMReranker with its modeling code."""
    from FlagEmbedding.inference.reranker.decoder_only import lightweight  # noqa: PLC0415
    from FlagEmbedding.inference.reranker.decoder_only.models import (  # noqa: PLC0415
        gemma_config,
        gemma_model,
    )

    class Layer(Gemma2DecoderLayer):
        """Layer of transformers 5 with the call signature of transformers 4."""

        def forward(self, states: torch.Tensor, **kwargs: Any) -> Any:  # type: ignore[override]
            embeddings = Gemma2RotaryEmbedding(self.config)(states, kwargs["position_ids"])
            mask = kwargs["attention_mask"]
            return (super().forward(states, position_embeddings=embeddings, attention_mask=mask),)

    def build(shape: dict[str, Any]) -> Any:
        config = gemma_config.CostWiseGemmaConfig(**shape)
        config._attn_implementation = "eager"
        gemma_model.CostWiseGemmaForCausalLM._tied_weights_keys = None
        original, gemma_model.Gemma2DecoderLayer = gemma_model.Gemma2DecoderLayer, Layer
        try:
            return gemma_model.CostWiseGemmaForCausalLM(config)
        finally:
            gemma_model.Gemma2DecoderLayer = original

    cls = lightweight.LightweightLLMReranker
    return _compute(cls, build, folder, pairs, cutoff_layers=[cutoff], **kwargs)


def _compute(cls: Any, build: Any, folder: Path, pairs: Pairs, **kwargs: Any) -> FloatArray:
    import json  # noqa: PLC0415

    from transformers import AutoTokenizer  # noqa: PLC0415

    shape = json.loads((folder / "config.json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build({name: value for name, value in shape.items() if name != "model_type"})
        missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), False)
        assert not missing
        assert not unexpected
        # The constructor loads the model in a way that fails with transformers 5.
        reranker = cls.__new__(cls)
        reranker.__dict__ |= {
            "model": model.eval(),
            "tokenizer": AutoTokenizer.from_pretrained(folder),
            "target_devices": ["cpu"],
            "pool": None,
            "use_fp16": False,
            "prompt": None,
            "batch_size": 4,
            "max_length": 400,
            "query_max_length": None,
            "normalize": False,
            "cutoff_layers": None,
            "compress_layers": [8],
            "compress_ratio": 1,
            "query_instruction_for_rerank": "A: ",
            "query_instruction_format": "{}{}",
            "passage_instruction_for_rerank": "B: ",
            "passage_instruction_format": "{}{}",
        }
        if "compress_ratio" in kwargs:
            reranker.tokenizer.padding_side = "right"
        return np.asarray(
            reranker.compute_score([list(pair) for pair in pairs], **kwargs), np.float32
        )


def flag_llm_scores(folder: Path, pairs: Pairs) -> FloatArray:
    """Return the scores of FlagLLMReranker, with room for the long query of the tests."""
    from FlagEmbedding import FlagLLMReranker  # noqa: PLC0415

    return flag_scores(FlagLLMReranker, folder, pairs, max_length=400, query_max_length=400)
