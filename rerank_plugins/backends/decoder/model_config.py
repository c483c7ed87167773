"""Reranking settings in a decoder's own files: answer tokens, template arguments, length limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rerank_plugins.backends.config_limits import smallest_max_seq_length
from rerank_plugins.backends.model_files import read_json, read_modules
from rerank_plugins.errors import ModelLoadError


def read_answer_tokens(source: str, options: dict[str, Any]) -> list[int]:
    """Return the answer tokens of sentence-transformers' module LogitScore, if there is one.

    Args:
        source: Folder or Hub name.
        options: See :func:`~rerank_plugins.backends.hub.hub_options`.

    Returns:
        The token of yes and, if the model has it, the token of no; empty without that module.

    Raises:
        ModelLoadError: If the module does not name tokens: the logits of other tokens would be
            meaningless scores.
    """
    for part in read_modules(source, options):
        if part.kind == "LogitScore":
            name = f"{part.path}/config.json"
            settings = read_json(source, name, options)
            if not isinstance(settings, dict):
                settings = {}
            tokens: dict[str, Any] = {"true_token_id": settings.get("true_token_id")}
            if settings.get("false_token_id") is not None:
                tokens["false_token_id"] = settings["false_token_id"]
            for key, token in tokens.items():
                if isinstance(token, bool) or not isinstance(token, int):
                    message = (
                        f"{key} is {token!r:.80} in {name} of {source!r}; it must be a token id, a "
                        "whole number. Save the model again."
                    )
                    raise ModelLoadError(message)
            return list(tokens.values())
    return []


def read_template_arguments(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments that a model's files define for its chat template.

    Raises:
        ModelLoadError: If they are not an object.
    """
    name, content = "sentence_bert_config.json", "its content"
    value: dict[str, Any] = {content: read_json(source, name, options)}
    for key in (content, "processing_kwargs", "chat_template"):
        value = value.get(key) or {}
        if not isinstance(value, dict):
            message = (
                f"{name} of {source!r} has {value!r:.80} as {key}; it must be an object. Correct "
                "the file, or remove the entry."
            )
            raise ModelLoadError(message)
    return value


def config_max_seq_length(settings: Any, tokenizer: Any) -> int:  # noqa: ANN401  (a model's own)
    """Return the maximum sequence length for which a decoder and its tokenizer are made.

    A model with LongRoPE changes its position encoding as soon as one text of a batch is longer
    than its original maximum. That maximum is its limit here, because a score would otherwise
    depend on its batch.

    Args:
        settings: The transformers configuration.
        tokenizer: The transformers tokenizer.

    Raises:
        ModelLoadError: If a limit is not a number of tokens.
    """
    limits = [
        ("max_position_embeddings", settings.max_position_embeddings),
        ("model_max_length", tokenizer.model_max_length),
    ]
    limits += [("original_max_position_embeddings", limit) for limit in _longrope_limits(settings)]
    return smallest_max_seq_length(limits, tokenizer.name_or_path, at_least=1)


def _longrope_limits(settings: Any) -> Iterator[Any]:  # noqa: ANN401  (a model's own class)
    ropes = getattr(settings, "rope_parameters", None) or {}
    for rope in (ropes, *(value for value in ropes.values() if isinstance(value, dict))):
        if rope.get("rope_type") == "longrope":
            yield rope.get(
                "original_max_position_embeddings",
                getattr(settings, "original_max_position_embeddings", None),
            )
