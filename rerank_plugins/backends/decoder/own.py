"""What a decoder's own files say of its answers, its prompt and its reach; checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rerank_plugins.backends._parts import read_json, read_modules
from rerank_plugins.backends._sizes import least_reach
from rerank_plugins.errors import ModelLoadError


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


def reach_of(settings: Any, tokenizer: Any) -> int:  # noqa: ANN401  (a model's own classes)
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
    return least_reach(limits, tokenizer.name_or_path, at_least=1)


def _switches(settings: Any) -> Iterator[Any]:  # noqa: ANN401  (a model's own class)
    """Yield the lengths beyond which a model counts positions otherwise."""
    ropes = getattr(settings, "rope_parameters", None) or {}
    for rope in (ropes, *(one for one in ropes.values() if isinstance(one, dict))):
        if rope.get("rope_type") == "longrope":
            yield rope.get(
                "original_max_position_embeddings",
                getattr(settings, "original_max_position_embeddings", None),
            )
