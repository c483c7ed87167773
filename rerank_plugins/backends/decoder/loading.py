"""Loading a decoder that really is a reranker: its layers, the rows of its head, its prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

from rerank_plugins.backends.config_limits import smallest_max_seq_length
from rerank_plugins.backends.decoder.forward import Head
from rerank_plugins.backends.decoder.prompts import (
    PromptTokenizer,
    Template,
    chat_template,
    family_template,
    plain_template,
)
from rerank_plugins.backends.families import PROMPTS, Prompt, family
from rerank_plugins.backends.fingerprint import fingerprint
from rerank_plugins.backends.hub import (
    adapter_options,
    cross_encoder_folder,
    hub_options,
    locate,
    quiet_loading,
)
from rerank_plugins.backends.model_files import (
    default_prompt,
    read_json,
    read_modules,
    validate_source,
)
from rerank_plugins.backends.model_specs import DecoderSpec
from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.loading import check_head, validate_complete
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ConfigurationError, ModelLoadError


def answer_tokens(source: str, options: dict[str, Any]) -> list[int]:
    """Return the tokens that sentence-transformers' module LogitScore reads, if there is one.

    Args:
        source: Folder or Hub name.
        options: How its files are had.

    Returns:
        Of yes, then of no where the model has such an answer; empty without that module.

    Raises:
        ModelLoadError: If the module does not name tokens: another row of the vocabulary would
            score just as well, and mean nothing.
    """
    for part in read_modules(source, options):
        if part.kind == "LogitScore":
            where = f"{part.path}/config.json"
            own = read_json(source, where, options)
            told = own if isinstance(own, dict) else {}
            tokens: dict[str, Any] = {"true_token_id": told.get("true_token_id")}
            if told.get("false_token_id") is not None:
                tokens["false_token_id"] = told["false_token_id"]
            for name, token in tokens.items():
                if isinstance(token, bool) or not isinstance(token, int):
                    message = (
                        f"{name} is {token!r:.80} in {where} of {source!r}; it must be the id of a "
                        "token, a whole number. Save the model anew."
                    )
                    raise ModelLoadError(message)
            return list(tokens.values())
    return []


def template_arguments(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that a model keeps for its chat template.

    Raises:
        ModelLoadError: If they are none.
    """
    name, content = "sentence_bert_config.json", "its content"
    found: dict[str, Any] = {content: read_json(source, name, options)}
    for key in (content, "processing_kwargs", "chat_template"):
        found = found.get(key) or {}
        if not isinstance(found, dict):
            message = (
                f"{name} of {source!r} has {found!r:.80} as {key}; it must be an object. Mend the "
                "file, or remove the entry."
            )
            raise ModelLoadError(message)
    return found


def max_length_of_config(settings: Any, tokenizer: Any) -> int:  # noqa: ANN401  (a model's own classes)
    """Return how many tokens a decoder can read: those that it and its tokenizer are made for.

    A model with LongRoPE counts positions otherwise as soon as one text of a batch is longer than
    those it was trained with first, so it reads no longer ones: a score would depend on its batch.

    Raises:
        ModelLoadError: If that is no number of tokens.
    """
    limits = [
        ("max_position_embeddings", settings.max_position_embeddings),
        ("model_max_length", tokenizer.model_max_length),
    ]
    limits += [("original_max_position_embeddings", one) for one in _switches(settings)]
    return smallest_max_seq_length(limits, tokenizer.name_or_path, at_least=1)


def _switches(settings: Any) -> Iterator[Any]:  # noqa: ANN401  (a model's own class)
    """Yield the lengths beyond which a model counts positions otherwise."""
    ropes = getattr(settings, "rope_parameters", None) or {}
    for rope in (ropes, *(one for one in ropes.values() if isinstance(one, dict))):
        if rope.get("rope_type") == "longrope":
            yield rope.get(
                "original_max_position_embeddings",
                getattr(settings, "original_max_position_embeddings", None),
            )


_CLASSIFIER: Final = "ForSequenceClassification"


class LoadedDecoder(NamedTuple):
    """A decoder reranker's parts.

    Attributes:
        base: A transformers decoder without its output layer, in evaluation mode.
        head: What makes scores of the last token's state.
        pairs: Prepares text pairs.
        max_seq_length: Most tokens it can read.
        fingerprint: Of the files, and of the prompt.
    """

    base: Any
    head: Head
    pairs: PromptTokenizer
    max_seq_length: int
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
    validate_source(name, options)
    tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **options)
    return Source(name, options, tokenizer, private_tokenizer(tokenizer, config.model))


def load_decoder(
    config: ModelConfig, settings: DecoderSpec, prompt: Prompt | None = None
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
        validate_complete(report, config.model)
    return LoadedDecoder(
        model.base_model.eval(),
        _classifier_head(model) if classifier else _answer_head(model, answers),
        PromptTokenizer(template, source.rust, config.model),
        max_length_of_config(model.config, source.tokenizer),
        digest(source.name, config, settings.instruction, prompt),
    )


def digest(source: str, config: ModelConfig, *others: object) -> str:
    """Return the fingerprint of a model's files and of what else its scores depend on."""
    files = fingerprint(source, config.revision, config.cache_folder)
    if not files or not any(others):
        return files
    return blake2b(f"{files}{others}".encode(), digest_size=32).hexdigest()


def _prompt(
    model: str, source: Source, settings: DecoderSpec, prompt: Prompt | None, *, classifier: bool
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
            'DecoderSpec(..., family="qwen3") or another family whose prompt it was trained with.'
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


def known_prompt(model: str, settings: DecoderSpec) -> Prompt | None:
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
