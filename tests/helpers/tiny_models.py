"""Tiny random rerankers of every supported encoder architecture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "who wrote faust",
    "Goethe wrote the tragedy Faust; its first part appeared in 1808.",
    "rain is water that falls from clouds in drops",
    "what is the capital of France? Paris is.",
    "die Hauptstadt von Frankreich ist Paris",
    "0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ ,.;:!?-",
]
WIDTHS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 400,
}


def _wordpiece() -> transformers.PreTrainedTokenizerBase:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=specials)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",  # noqa: S106
        pad_token="[PAD]",  # noqa: S106
        cls_token="[CLS]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
        mask_token="[MASK]",  # noqa: S106
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _wrap_tokenizer(tokenizer: Tokenizer, pair: str) -> transformers.PreTrainedTokenizerBase:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair=pair,
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        cls_token="<s>",  # noqa: S106
        sep_token="</s>",  # noqa: S106
        mask_token="<mask>",  # noqa: S106
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


_SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def _byte_bpe(pair: str = "<s> $A </s> </s> $B </s>") -> transformers.PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=_SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _wrap_tokenizer(tokenizer, pair)


def _unigram(pair: str = "<s> $A </s> </s> $B </s>") -> transformers.PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=_SPECIAL_TOKENS,
        unk_token="<unk>",  # noqa: S106
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _wrap_tokenizer(tokenizer, pair)


def _bert(**kwargs: Any) -> transformers.PreTrainedModel:
    return transformers.BertForSequenceClassification(transformers.BertConfig(**kwargs))


def _electra(**kwargs: Any) -> transformers.PreTrainedModel:
    config = transformers.ElectraConfig(embedding_size=16, **kwargs)
    return transformers.ElectraForSequenceClassification(config)


def _roberta(**kwargs: Any) -> transformers.PreTrainedModel:
    kwargs |= {"pad_token_id": 1, "max_position_embeddings": 514, "type_vocab_size": 1}
    return transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**kwargs))


def _xlm_roberta(**kwargs: Any) -> transformers.PreTrainedModel:
    kwargs |= {"pad_token_id": 1, "max_position_embeddings": 514, "type_vocab_size": 1}
    return transformers.XLMRobertaForSequenceClassification(transformers.XLMRobertaConfig(**kwargs))


def _deberta(**kwargs: Any) -> transformers.PreTrainedModel:
    kwargs |= {
        "relative_attention": True,
        "position_buckets": 32,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "pad_token_id": 1,
    }
    return transformers.DebertaV2ForSequenceClassification(transformers.DebertaV2Config(**kwargs))


def _modernbert(**kwargs: Any) -> transformers.PreTrainedModel:
    config = transformers.ModernBertConfig(
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        cls_token_id=0,
        sep_token_id=2,
        max_position_embeddings=512,
        local_attention=16,
        **kwargs,
    )
    return transformers.ModernBertForSequenceClassification(config)


ARCHITECTURES: dict[
    str,
    tuple[
        Callable[..., transformers.PreTrainedModel],
        Callable[[], transformers.PreTrainedTokenizerBase],
    ],
] = {
    "bert": (_bert, _wordpiece),
    "electra": (_electra, _wordpiece),
    "roberta": (_roberta, _byte_bpe),
    "xlm-roberta": (_xlm_roberta, _unigram),
    "deberta": (_deberta, lambda: _unigram("<s> $A </s> $B </s>")),
    "modernbert": (_modernbert, lambda: _byte_bpe("<s> $A </s> $B </s>")),
}


def save_reranker(architecture: str, folder: Path, *, labels: int = 1) -> Path:
    """Save a random reranker whose scores have a realistic spread; return its folder."""
    make_model, make_tokenizer = ARCHITECTURES[architecture]
    torch.manual_seed(7)
    model = make_model(num_labels=labels, initializer_range=0.3, **WIDTHS)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Change values in the config.json of a saved model."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
