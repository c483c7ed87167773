"""Loading of decoder rerankers: their layers, the rows of their head, and their prompt."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, NamedTuple

from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rerank_plugins.backends.decoder.forward import Head
from rerank_plugins.backends.decoder.model_config import (
    config_max_seq_length,
    read_answer_tokens,
    read_template_arguments,
)
from rerank_plugins.backends.decoder.prompts import (
    PromptTokenizer,
    Template,
    chat_template,
    family_template,
    plain_template,
)
from rerank_plugins.backends.families import PROMPTS, Prompt, family
from rerank_plugins.backends.fingerprint import fingerprint
from rerank_plugins.backends.hub import cross_encoder_folder, hub_options, locate, quiet_loading
from rerank_plugins.backends.model_files import default_prompt, validate_source
from rerank_plugins.backends.model_specs import DecoderSpec
from rerank_plugins.backends.tokenizer import private_tokenizer
from rerank_plugins.backends.torch.loading import load_weights, validate_head
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ConfigurationError, ModelLoadError

_CLASSIFIER: Final = "ForSequenceClassification"


class LoadedDecoder(NamedTuple):
    """The parts of a decoder reranker.

    Attributes:
        base: A transformers decoder without its output layer, in evaluation mode.
        head: Scores the last token's state.
        pairs: Tokenizes text pairs.
        max_seq_length: Maximum sequence length.
        fingerprint: Digest of the files and of the prompt.
    """

    base: Any
    head: Head
    pairs: PromptTokenizer
    max_seq_length: int
    fingerprint: str


class ModelSource(NamedTuple):
    """The files of a model, and its tokenizer.

    Attributes:
        name: Folder or Hub name.
        options: See :func:`~rerank_plugins.backends.hub.hub_options`.
        tokenizer: The transformers tokenizer.
        rust: The private Rust tokenizer.
    """

    name: str
    options: dict[str, Any]
    tokenizer: Any
    rust: Tokenizer

    def first_token(self, text: str) -> int:
        """Return the id of the first token of a text.

        Raises:
            ModelLoadError: If the text has no tokens.
        """
        ids = self.rust.encode(text, add_special_tokens=False).ids
        if not ids:
            message = f"{self.name!r} has no token for {text!r}; its tokenizer.json is damaged."
            raise ModelLoadError(message)
        return int(ids[0])


def open_source(
    config: ModelConfig, embedded_folder: Callable[[], Path] = cross_encoder_folder
) -> ModelSource:
    """Locate a model's files and load its tokenizer.

    Args:
        config: Resolved configuration of the model.
        embedded_folder: Returns the folder of the embedded model.
    """
    name = locate(config, embedded_folder)
    options = hub_options(config, name)
    validate_source(name, options)
    tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, **options)
    return ModelSource(name, options, tokenizer, private_tokenizer(tokenizer, config.model))


def load_decoder(
    config: ModelConfig, spec: DecoderSpec, prompt: Prompt | None = None
) -> LoadedDecoder:
    """Load the model of a resolved configuration.

    Args:
        config: The configuration.
        spec: Further settings of the model.
        prompt: Replaces the prompt of the model's files or family.

    Raises:
        ModelLoadError: If there is no such model, or its files do not describe a reranker.
    """
    with quiet_loading(config.model):
        source = open_source(config)
        model_config = AutoConfig.from_pretrained(source.name, **source.options)
        architectures = model_config.architectures or []
        classifier = any(name.endswith(_CLASSIFIER) for name in architectures)
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


def digest(source: str, config: ModelConfig, *others: object) -> str:
    """Return the digest of a model's files and of everything else its scores depend on."""
    files = fingerprint(source, config.revision, config.cache_folder)
    if not files or not any(others):
        return files
    return blake2b(f"{files}{others}".encode(), digest_size=32).hexdigest()


def _family_prompt(model: str, spec: DecoderSpec) -> Prompt | None:
    """Return the prompt of the family that the spec or the model's name determine.

    Raises:
        ConfigurationError: If there is an instruction, and the prompt does not take one.
    """
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
    return Head(
        output.weight[tokens],
        None if bias is None else bias[tokens],
        getattr(model.config, "final_logit_softcapping", None),
    )


def _classifier_head(model: Any) -> Head:  # noqa: ANN401  (one of many model classes)
    # Two labels are (not relevant, relevant), a single label is relevant.
    bias = getattr(model.score, "bias", None)
    return Head(model.score.weight[-1:], None if bias is None else bias[-1:])
