"""Loading of decoder rerankers, and scores from the state of the last token."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DynamicCache,
)
from transformers.cache_utils import DynamicLayer

from rerank_plugins.backends.decoder.prompts import (
    Ids,
    PromptedPair,
    PromptTokenizer,
    Template,
    chat_template,
    family_template,
    plain_template,
)
from rerank_plugins.backends.detection import PROMPTS, Prompt, family
from rerank_plugins.backends.hub import (
    cross_encoder_folder,
    fingerprint,
    hub_options,
    locate,
    quiet_loading,
)
from rerank_plugins.backends.model_files import (
    default_prompt,
    read_json,
    read_modules,
    smallest_max_seq_length,
    validate_source,
)
from rerank_plugins.backends.model_specs import DecoderSpec
from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.loading import load_weights, validate_head
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ConfigurationError, ModelLoadError

_KeysValues: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_MAX_PREFIXES: Final = 8
"""Number of prefixes whose keys and values are cached: batches of one request run consecutively."""


class LoadedDecoder(NamedTuple):
    """A decoder without its output layer, in evaluation mode, and what belongs to it."""

    base: Any
    head: Head
    pairs: PromptTokenizer
    max_seq_length: int
    fingerprint: str


class ModelSource(NamedTuple):
    """The folder or Hub name of a model, the Hub's options, and the tokenizer."""

    name: str
    options: dict[str, Any]
    tokenizer: Any
    rust: Tokenizer

    def first_token(self, text: str) -> int:
        """Return the id of the first token of a text."""
        ids = self.rust.encode(text, add_special_tokens=False).ids
        if not ids:
            message = f"{self.name!r} has no token for {text!r}; its tokenizer.json is damaged."
            raise ModelLoadError(message)
        return int(ids[0])


def load_decoder(
    config: ModelConfig, spec: DecoderSpec, prompt: Prompt | None = None
) -> LoadedDecoder:
    """Load the model of a resolved configuration."""
    with quiet_loading(config.model):
        source = open_source(config)
        model_config = AutoConfig.from_pretrained(source.name, **source.options)
        architectures = model_config.architectures or []
        classifier = any(name.endswith("ForSequenceClassification") for name in architectures)
        if classifier:
            validate_head(model_config, config.model)
        prompt = prompt or _family_prompt(config.model, spec)
        template, answers = _template(config.model, source, spec, prompt, classifier=classifier)
        cls = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
        model = load_weights(cls, source.name, config, source.options)
    return LoadedDecoder(
        model.base_model.eval(),
        _classifier_head(model) if classifier else _answer_head(model, answers),
        PromptTokenizer(template, source.rust, config.model),
        config_max_seq_length(model.config, source.tokenizer),
        digest(source.name, config, spec.instruction, prompt),
    )


def open_source(
    config: ModelConfig, embedded_folder: Callable[[], Path] = cross_encoder_folder
) -> ModelSource:
    """Locate a model's files and load its tokenizer."""
    name = locate(config, embedded_folder)
    options = hub_options(config, name)
    validate_source(name, options)
    tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **options)
    return ModelSource(name, options, tokenizer, private_tokenizer(tokenizer, config.model))


def digest(source: str, config: ModelConfig, *others: object) -> str:
    """Return the digest of a model's files and of everything else its scores depend on."""
    files = fingerprint(source, config.revision, config.cache_folder)
    if not files or not any(others):
        return files
    return blake2b(f"{files}{others}".encode(), digest_size=32).hexdigest()


def config_max_seq_length(settings: Any, tokenizer: Any) -> int:  # noqa: ANN401  (a model's own)
    """Return the maximum sequence length for which a decoder and its tokenizer are made.

    A model with LongRoPE changes its position encoding as soon as one text of a batch is longer
    than its original maximum. That maximum is its limit here, because a score would otherwise
    depend on its batch.
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


def read_answer_tokens(source: str, options: dict[str, Any]) -> list[int]:
    """Return the answer tokens of sentence-transformers' module LogitScore, if there is one.

    They are the token of yes and, if the model has it, the token of no; empty without that module.
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
    """Return the keyword arguments that a model's files define for its chat template."""
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


def _family_prompt(model: str, spec: DecoderSpec) -> Prompt | None:
    """Return the prompt of the family that the spec or the model's name determine."""
    known = family(model)
    prompt = known.prompt if spec.family == "auto" and known else PROMPTS.get(spec.family)
    if prompt is None:
        return None
    if spec.instruction is not None and not prompt.takes_instructions:
        message = (
            f"instruction is {spec.instruction!r}, and the prompt of {model!r} takes no "
            "instruction. Set instruction to None."
        )
        raise ConfigurationError(message)
    return prompt.with_instruction(spec.instruction)


def _template(
    model: str,
    source: ModelSource,
    spec: DecoderSpec,
    prompt: Prompt | None,
    *,
    classifier: bool,
) -> tuple[Template, list[int]]:
    """Return the prompt template and the answer tokens: of yes and, if the model has it, of no."""
    if prompt is not None:
        ids = [source.first_token(text) for text in (prompt.yes, prompt.no) if text]
        return family_template(source.tokenizer, source.rust, prompt), ids
    answers = read_answer_tokens(source.name, source.options)
    if answers or (classifier and source.tokenizer.chat_template):
        instruction = spec.instruction or default_prompt(source.name, source.options)
        arguments = read_template_arguments(source.name, source.options)
        template = chat_template(source.tokenizer, source.rust, model, instruction, arguments)
        return template, answers
    if spec.instruction is not None or not classifier:
        message = (
            f"{model!r} is a language model whose files do not describe how it reranks. Give "
            'DecoderSpec(..., family="qwen3"), or another family whose prompt it was trained with.'
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
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return Head(output.weight[tokens], None if bias is None else bias[tokens], softcap)


def _classifier_head(model: Any) -> Head:  # noqa: ANN401  (one of many model classes)
    # Two labels are (not relevant, relevant), a single label is relevant.
    bias = getattr(model.score, "bias", None)
    return Head(model.score.weight[-1:], None if bias is None else bias[-1:])


class Head(torch.nn.Module):
    """Scores the last token's state, in float32.

    With two rows, the score is the difference of their logits (the log odds of yes against no);
    with one row, it is the logit.
    """

    def __init__(
        self, rows: torch.Tensor, bias: torch.Tensor | None = None, softcap: float | None = None
    ) -> None:
        """Copy rows of an output layer, ``(1 or 2, width)``: of yes, then of no.

        ``softcap`` is the bound of the logits of Gemma 2.
        """
        super().__init__()
        self.rows: torch.Tensor
        self.bias: torch.Tensor | None
        self.register_buffer("rows", rows.detach().float().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())
        self._softcap = softcap

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return scores of shape ``(sequences,)`` for states of shape ``(sequences, width)``."""
        logits = torch.nn.functional.linear(states.float(), self.rows, self.bias)
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits[:, 0] - logits[:, 1]


class LastTokenScorer:
    """Scores batches of prompted pairs; the common prefix of a query's pairs is computed once.

    Rows are padded on the right. In a decoder, no token attends to a later one, so padding changes
    nothing, and positions count from 0 without a mask.

    Attributes:
        reuse: Whether the keys and values of common prefixes are cached.
    """

    def __init__(self, base: Any, head: Head) -> None:  # noqa: ANN401
        """Use a loaded model."""
        self.reuse = True
        self._base = base
        self._cache_argument = cache_argument(base.forward)
        self._head = head
        self._device = head.rows.device
        self._prefixes: dict[bytes, list[_KeysValues]] = {}

    def __call__(self, batch: Sequence[PromptedPair]) -> torch.Tensor:
        """Return scores of shape ``(len(batch),)``, float32."""
        groups: dict[bytes, list[int]] = {}
        for row, pair in enumerate(batch):
            # Each row keeps at least one token outside of the prefix.
            length = min(pair.head, len(pair.ids) - 1) if self.reuse else 0
            groups.setdefault(pair.ids[:length].tobytes(), []).append(row)
        scores = torch.empty(len(batch), dtype=torch.float32, device=self._device)
        without_prefix: list[int] = []
        for key, rows in groups.items():
            if not key or (len(rows) == 1 and key not in self._prefixes):
                without_prefix += rows
                continue
            prefix = self._prefix(key)
            length = len(np.frombuffer(key, dtype=np.int32))
            scores[rows] = self._scores([batch[row].ids[length:] for row in rows], prefix)
        if without_prefix:
            scores[without_prefix] = self._scores([batch[row].ids for row in without_prefix], [])
        return scores

    def clear_prefixes(self) -> None:
        """Release the cached keys and values."""
        self._prefixes.clear()

    def _scores(self, rows: list[Ids], prefix: list[_KeysValues]) -> torch.Tensor:
        ids, lengths = pad_ids(rows)
        states = self._states(ids, _expanded(prefix, len(rows)) if prefix else None)
        scores: torch.Tensor = self._head(last_states(states, lengths))
        return scores

    def _states(self, ids: torch.Tensor, cache: DynamicCache | None) -> torch.Tensor:
        output = self._base(
            input_ids=ids.to(self._device),
            use_cache=cache is not None,
            **{self._cache_argument: cache},
        )
        states: torch.Tensor = output.last_hidden_state
        return states

    def _prefix(self, key: bytes) -> list[_KeysValues]:
        """Return the keys and values of a prefix for each layer; the cache is an LRU cache."""
        prefix = self._prefixes.pop(key, None)
        if prefix is None:
            cache = DynamicCache()
            self._states(pad_ids([np.frombuffer(key, dtype=np.int32)])[0], cache)
            layers: list[Any] = list(cache.layers)
            prefix = [(layer.keys, layer.values) for layer in layers]
        self._prefixes[key] = prefix
        while len(self._prefixes) > _MAX_PREFIXES:
            self._prefixes.pop(next(iter(self._prefixes)))
        return prefix


def pad_ids(rows: Sequence[Ids]) -> tuple[torch.Tensor, list[int]]:
    """Return ids padded on the right, int64 of shape ``(rows, tokens)``, and the rows' lengths."""
    tensors = [torch.from_numpy(row.astype(np.int64)) for row in rows]
    return pad_sequence(tensors, batch_first=True), [len(row) for row in rows]


def last_states(states: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Return the state of each row's last token, ``(rows, width)``."""
    last = torch.tensor(lengths, device=states.device) - 1
    return states[torch.arange(len(last), device=states.device), last]


def cache_argument(function: Callable[..., Any]) -> str:
    """Return the name of a function's cache argument, which depends on transformers' version."""
    return "cache" if "cache" in inspect.signature(function).parameters else "past_key_values"


def _expanded(prefix: list[_KeysValues], rows: int) -> DynamicCache:
    """Return a cache that contains the prefix in every row, without a copy."""
    cache = DynamicCache()
    for keys, values in prefix:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(rows, -1, -1, -1)
        layer.values = values.expand(rows, -1, -1, -1)
        cache.layers.append(layer)
    return cache
