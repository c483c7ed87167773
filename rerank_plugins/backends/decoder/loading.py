"""Loading a decoder that really is a reranker: its layers, the rows of its head, its prompt."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rerank_plugins.backends._families import PROMPTS, Prompt, family
from rerank_plugins.backends._fingerprint import fingerprint
from rerank_plugins.backends._loading import adapter_options, hub_options, locate, quiet_loading
from rerank_plugins.backends._mini import cross_encoder_folder
from rerank_plugins.backends._parts import check_source, default_prompt
from rerank_plugins.backends._tokenizer import private_tokenizer
from rerank_plugins.backends.decoder.forward import Head
from rerank_plugins.backends.decoder.own import answer_tokens, reach_of, template_arguments
from rerank_plugins.backends.decoder.prompts import chat_template, family_template, plain_template
from rerank_plugins.backends.decoder.settings import DecoderModel
from rerank_plugins.backends.decoder.tokens import PromptTokenizer, Template
from rerank_plugins.backends.torch.loading import check_complete, check_head
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.errors import ConfigurationError, ModelLoadError

_CLASSIFIER: Final = "ForSequenceClassification"


class LoadedDecoder(NamedTuple):
    """A decoder reranker's parts.

    Attributes:
        base: A transformers decoder without its output layer, in evaluation mode.
        head: What makes scores of the last token's state.
        pairs: Prepares text pairs.
        reach: Most tokens it can read.
        fingerprint: Of the files, and of the prompt.
    """

    base: Any
    head: Head
    pairs: PromptTokenizer
    reach: int
    fingerprint: str


class Source(NamedTuple):
    """Where a model's files are, and its tokenizer.

    Attributes:
        name: Folder or Hub name.
        options: How its files are had.
        tokenizer: The transformers tokenizer.
        rust: The private Rust one.
    """

    name: str
    options: dict[str, Any]
    tokenizer: Any
    rust: Any

    def first_token(self, text: str) -> int:
        """Return the id of a text's first token.

        Raises:
            ModelLoadError: If it has none.
        """
        ids = self.rust.encode(text, add_special_tokens=False).ids
        if not ids:
            message = f"{self.name!r} has no token for {text!r}; its tokenizer.json is damaged."
            raise ModelLoadError(message)
        return int(ids[0])


def open_source(config: ModelConfig, mini: Callable[[], Path] = cross_encoder_folder) -> Source:
    """Find a model's files and load its tokenizer; ``mini`` finds those of the embedded model."""
    name = locate(config, mini)
    options = hub_options(config, name)
    check_source(name, options)
    tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **options)
    return Source(name, options, tokenizer, private_tokenizer(tokenizer, config.model))


def load_decoder(
    config: ModelConfig, settings: DecoderModel, prompt: Prompt | None = None
) -> LoadedDecoder:
    """Load the parts of a resolved configuration's model.

    Args:
        config: The configuration that names it.
        settings: What else is known of it.
        prompt: Used in place of the one that its files or its name stand for.

    Raises:
        ModelLoadError: If there is no such model, or nothing says how it reranks.
    """
    with quiet_loading(config.model):
        source = open_source(config)
        kind = AutoConfig.from_pretrained(source.name, **source.options)
        classifier = any(name.endswith(_CLASSIFIER) for name in kind.architectures or [])
        if classifier:
            check_head(kind, config.model)
        prompt = prompt or known_prompt(config.model, settings)
        template, answers = _prompt(config.model, source, settings, prompt, classifier=classifier)
        cls: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
        model, report = cls.from_pretrained(
            source.name,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            adapter_kwargs=adapter_options(source.options),
            output_loading_info=True,
            **source.options,
        )
        check_complete(report, config.model)
    return LoadedDecoder(
        model.base_model.eval(),
        _classifier_head(model) if classifier else _answer_head(model, answers),
        PromptTokenizer(template, source.rust, config.model),
        reach_of(model.config, source.tokenizer),
        digest(source.name, config, settings.instruction, prompt),
    )


def digest(source: str, config: ModelConfig, *others: object) -> str:
    """Return the fingerprint of a model's files and of what else its scores depend on."""
    files = fingerprint(source, config.revision, config.cache_folder)
    if not files or not any(others):
        return files
    return blake2b(f"{files}{others}".encode(), digest_size=32).hexdigest()


def _prompt(
    model: str, source: Source, settings: DecoderModel, prompt: Prompt | None, *, classifier: bool
) -> tuple[Template, list[int]]:
    """Return the prompt, and the tokens whose logits make the score: of yes, then of no."""
    if prompt is not None:
        ids = [source.first_token(text) for text in (prompt.yes, prompt.no) if text]
        return family_template(source.tokenizer, source.rust, prompt), ids
    answers = answer_tokens(source.name, source.options)
    if answers or (classifier and source.tokenizer.chat_template):
        instruction = settings.instruction or default_prompt(source.name, source.options)
        options = template_arguments(source.name, source.options)
        args = (source.tokenizer, source.rust, model, instruction, options)
        return chat_template(*args), answers
    if settings.instruction is not None or not classifier:
        message = (
            f"{model!r} is a language model, and nothing in its files says how it reranks. Give "
            'DecoderModel(..., family="qwen3") or another family whose prompt it was trained with.'
        )
        raise ModelLoadError(message)
    return plain_template(source.rust, model), answers


def _answer_head(model: Any, tokens: list[int]) -> Head:  # noqa: ANN401  (one of many classes)
    output = model.get_output_embeddings()
    rows = len(output.weight)
    if not all(0 <= token < rows for token in tokens):
        message = (
            f"the answers of {model.name_or_path!r} are the tokens {tokens}, and its output layer "
            f"has {rows}: from 0 to {rows - 1}. Its tokenizer or its modules are another model's."
        )
        raise ModelLoadError(message)
    bias = getattr(output, "bias", None)
    return Head(
        output.weight[tokens],
        None if bias is None else bias[tokens],
        getattr(model.config, "final_logit_softcapping", None),
    )


def _classifier_head(model: Any) -> Head:  # noqa: ANN401  (one of many model classes)
    # A two-label head gives (not relevant, relevant), a one-label head the latter.
    bias = getattr(model.score, "bias", None)
    return Head(model.score.weight[-1:], None if bias is None else bias[-1:])


def known_prompt(model: str, settings: DecoderModel) -> Prompt | None:
    """Return the prompt that the settings name, or that the model's name stands for.

    Raises:
        ConfigurationError: If there is an instruction, and the prompt has no place for one.
    """
    found = family(model)
    prompt = found.prompt if settings.family == "auto" and found else PROMPTS.get(settings.family)
    if prompt is None:
        return None
    if settings.instruction is not None and not prompt.takes_instructions:
        message = (
            f"instruction is {settings.instruction!r}, and the prompt of {model!r} has no place "
            "for one. Leave it out."
        )
        raise ConfigurationError(message)
    return prompt.with_instruction(settings.instruction)
