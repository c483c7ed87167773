"""Tiny random decoder rerankers in the formats in which such models are published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.helpers.tiny_models import TEXTS, WIDTHS

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<bos>", "<pad>"]
ANSWERS = ["yes", "no", "Yes", "No", "0", "1"]
LAYERS = 4

CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='Judge it.') -%}"
    "{%- for m in messages -%}{%- if m.role == 'system' -%}{%- set ns.system = m.content -%}"
    "{%- endif -%}{%- endfor -%}"
    "<|im_start|>system\n{{ ns.system }}<|im_end|>\n<|im_start|>user\n"
    "{%- for m in messages -%}"
    "{%- if m.role == 'query' -%}<Query>: {{ m.content }}\n"
    "{%- elif m.role == 'document' -%}<Document>: {{ m.content }}{%- endif -%}"
    "{%- endfor -%}"
    "<|im_end|>\n<|im_start|>assistant\n"
)


def decoder_tokenizer(*, ending: bool = False) -> transformers.PreTrainedTokenizerBase:
    """Return a byte-level tokenizer with the answers as single tokens.

    Args:
        ending: Whether an end token follows each text, as in Qwen3-Embedding.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*TEXTS, *(word for word in ANSWERS for _ in range(40))], trainer)
    if ending:
        end = SPECIAL[0]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}",
            pair=f"$A $B {end}",
            special_tokens=[(end, tokenizer.token_to_id(end))],
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        eos_token="<|endoftext|>",  # noqa: S106
        model_max_length=512,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def sizes(tokenizer: transformers.PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the configuration that all tiny decoders share."""
    return {
        **WIDTHS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


CONFIGS: dict[str, Callable[..., transformers.PreTrainedConfig]] = {
    "qwen3": transformers.Qwen3Config,
    "qwen2": transformers.Qwen2Config,
    "llama": transformers.LlamaConfig,
    "mistral": lambda **kwargs: transformers.MistralConfig(sliding_window=24, **kwargs),
    "gemma": transformers.GemmaConfig,
    "gemma2": lambda **kwargs: transformers.Gemma2Config(
        sliding_window=24, query_pre_attn_scalar=8, **kwargs
    ),
}
"""Configurations by architecture; prompts are longer than the two sliding windows."""


def save_language_model(architecture: str, folder: Path) -> Path:
    """Save a random language model; return its folder."""
    tokenizer = decoder_tokenizer()
    torch.manual_seed(7)
    config = CONFIGS[architecture](**sizes(tokenizer))
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_classifier(
    architecture: str, folder: Path, *, labels: int = 1, template: str | None = None
) -> Path:
    """Save a decoder with a classification head; return its folder."""
    tokenizer = decoder_tokenizer()
    tokenizer.chat_template = template
    torch.manual_seed(7)
    config = CONFIGS[architecture](**sizes(tokenizer), num_labels=labels)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_logit_score(architecture: str, folder: Path, *, no: bool = True) -> Path:
    """Save a language model with a chat template and sentence-transformers' LogitScore."""
    plain = save_language_model(architecture, folder / "plain")
    tokenizer = decoder_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(plain)
    ids = [tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]
    assert isinstance(ids[0], int)
    assert isinstance(ids[1], int)
    model = CrossEncoder(
        modules=[
            Transformer(str(plain), transformer_task="text-generation"),
            LogitScore(ids[0], ids[1] if no else None),
        ],
        prompts={"search": "Find what answers the question."},
        default_prompt_name="search",
        device="cpu",
    )
    model.save_pretrained(str(folder / "model"))
    return folder / "model"
