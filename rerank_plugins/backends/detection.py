"""Choice of the backend for ``backend="auto"``, and families of models that are known by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

from huggingface_hub import try_to_load_from_cache

from rerank_plugins.backends.hub import cross_encoder_folder, hub_options, locate, quiet_loading
from rerank_plugins.backends.model_files import Module, model_kind, read_json, read_modules
from rerank_plugins.config import MINI, ModelConfig
from rerank_plugins.errors import ModelLoadError

BERT_LIKE_TYPES: Final = ("bert", "roberta", "xlm-roberta", "electra")
"""Model types with BERT's layers."""

PACKED_TYPES: Final = (*BERT_LIKE_TYPES, "modernbert")
"""Model types that the torch backend runs without padding, also with a modular head."""

_DECODER_TYPES: Final = (
    *("gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "phi3"),
    *("qwen2", "qwen3", "smollm3"),
)
"""Causal model types, whose score is computed from the last token."""

FLAG_VARIANTS: Final[Mapping[str, str]] = {
    "LayerWiseMiniCPMForCausalLM": "layerwise",
    "CostWiseGemmaForCausalLM": "lightweight",
}
"""FlagEmbedding's variants of rerankers by architecture."""


def choose_cross_encoder(config: ModelConfig) -> str:
    """Return the name of the best backend for a cross-encoder."""
    if config.model == MINI:
        return _for_encoder(config)
    source = locate(config, cross_encoder_folder)
    with quiet_loading(config.model):
        options = _options(config, source)
        modules = read_modules(source, options)
        settings = read_json(source, "config.json", options) or {}
        is_language_model = read_architecture(settings).endswith("ForCausalLM")
        if not modules and is_language_model and not Path(source).is_absolute():
            # modules.json may not be downloaded yet. Other models are searched again when loaded.
            options = hub_options(config, source)
            modules = read_modules(source, options)
        if len(modules) > 1:
            return _for_modules(config, source, options, modules, settings.get("model_type"))
    return _for_single(config, settings)


def _for_encoder(config: ModelConfig) -> str:
    """Return the backend for an encoder that the torch backend supports.

    In float32 OpenVINO is as fast as the padding-free torch backend, and int8 changes scores, so
    OpenVINO is used only for ``dtype="int8"``.
    """
    return "openvino" if config.dtype == "int8" else "torch"


def _for_modules(
    config: ModelConfig,
    source: str,
    options: dict[str, Any],
    modules: list[Module],
    model_type: str | None,
) -> str:
    kinds = [module.kind for module in modules]
    if kinds[-1] == "LogitScore":
        return "decoder" if kinds == ["Transformer", "LogitScore"] else "sbert"
    head = read_json(source, f"{modules[-1].path}/config.json", options) or {}
    has_scores = head.get("module_output_name") == "scores"
    if not has_scores and model_kind(source, options) != "CrossEncoder":
        message = (
            f"{config.model!r} is a bi-encoder ({', '.join(kinds)}), not a reranker: it embeds "
            "texts separately. Use it with BiEncoder."
        )
        raise ModelLoadError(message)
    if kinds[:2] == ["Transformer", "Pooling"] and model_type in PACKED_TYPES:
        pooling = read_json(source, f"{modules[1].path}/config.json", options) or {}
        if pooling.get("pooling_mode") == "cls" or pooling.get("pooling_mode_cls_token"):
            return _for_encoder(config)
    return "sbert"


def _for_single(config: ModelConfig, settings: dict[str, Any]) -> str:
    architecture = read_architecture(settings)
    if architecture in FLAG_VARIANTS:
        return "flag"
    known_family = family(config.model)
    if known_family is not None:
        return known_family.backend
    if architecture.endswith("ForCausalLM"):
        message = (
            f"{config.model!r} is {architecture}, a generative language model, and its files do "
            "not describe how it reranks. If it is a fine-tuned reranker, name the family of its "
            'prompt, for example DecoderSpec(..., family="qwen3").'
        )
        raise ModelLoadError(message)
    if architecture.endswith("ForSequenceClassification"):
        if settings.get("model_type") in _DECODER_TYPES:
            return "decoder"
        return _for_encoder(config)
    return "torch"  # which raises an error that states what the model is


def read_architecture(settings: dict[str, Any]) -> str:
    """Return the architecture in a model's configuration; empty if there is none."""
    return str((settings.get("architectures") or [""])[0])


def _options(config: ModelConfig, source: str) -> dict[str, Any]:
    """Return the Hub's options, without network access if the configuration is local."""
    is_local = Path(source).is_absolute() or isinstance(
        try_to_load_from_cache(
            source, "config.json", cache_dir=config.cache_folder, revision=config.revision
        ),
        str,
    )
    return hub_options(config.replace(local_files_only=config.local_files_only or is_local), source)


_PLACEHOLDER: Final = "{instruction}"


class Prompt(NamedTuple):
    """A decoder's prompt, and the answers whose logits give the score.

    Attributes:
        before: Parts before the query; ``{instruction}`` is replaced by the instruction.
        between: Parts between query and document.
        after: Parts after the document.
        yes: The answer that means relevant.
        no: The answer that means not relevant; empty if the logit of ``yes`` alone is the score.
        instruction: Default instruction.
        instructed: Replaces the last part of ``before`` if an instruction is set.
        whole: Whether the prompt is tokenized as one text. Otherwise its parts are tokenized
            separately, the last part of ``before`` together with the query and the last part of
            ``between`` together with the document.
    """

    before: tuple[str, ...]
    between: tuple[str, ...]
    after: tuple[str, ...]
    yes: str
    no: str
    instruction: str = ""
    instructed: str = ""
    whole: bool = False

    def with_instruction(self, instruction: str | None) -> Prompt:
        """Return the prompt with an instruction; None uses the default one."""
        if instruction is not None and self.instructed:
            last = self.instructed.replace(_PLACEHOLDER, instruction)
            return self._replace(before=(*self.before[:-1], last))
        text = self.instruction if instruction is None else instruction
        return self._replace(before=tuple(part.replace(_PLACEHOLDER, text) for part in self.before))

    @property
    def takes_instructions(self) -> bool:
        """Whether the prompt has a place for an instruction."""
        return bool(self.instruction or self.instructed)


class Family(NamedTuple):
    """Backend and prompt of a family."""

    backend: str
    prompt: Prompt


class EmbeddingPrompts(NamedTuple):
    """Prefixes of queries and documents for a family of bi-encoders."""

    query: str
    document: str = ""


def family(model: str) -> Family | None:
    """Return the family of a decoder reranker, or None if its name is not recognized.

    >>> family("Qwen/Qwen3-Reranker-0.6B").backend
    'decoder'
    >>> family("me/not-a-qwen3-reranker-0.6b") is None
    True
    """
    return FAMILIES.get(PurePath(model).name.lower())


def embedding_prompts(model: str) -> EmbeddingPrompts:
    """Return the prompts of a bi-encoder's family; most models have empty ones.

    >>> embedding_prompts("intfloat/multilingual-e5-small").document
    'passage: '
    """
    return EMBEDDING_PROMPTS.get(PurePath(model).name.lower(), EmbeddingPrompts(""))


BOS: Final = "<bos>"
"""Placeholder for the tokenizer's beginning-of-sequence token."""

QWEN3: Final = Prompt(
    before=(
        (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
            'Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
            "<|im_end|>\n<|im_start|>user\n"
        ),
        "<Instruct>: {instruction}\n<Query>: ",
    ),
    between=("\n<Document>: ",),
    after=("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",),
    yes="yes",
    no="no",
    instruction="Given a web search query, retrieve relevant passages that answer the query",
    whole=True,
)
"""Source: the model card of Qwen/Qwen3-Reranker-0.6B."""

MXBAI: Final = Prompt(
    before=(
        (
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
            "assistant.<|im_end|>\n<|im_start|>user\n"
        ),
        "query: ",
    ),
    between=("\n", "document: "),
    after=(
        "\n",
        (
            "You are a search relevance expert who evaluates how well documents match search "
            "queries. For each query-document pair, carefully analyze the semantic relationship "
            "between them, then provide your binary relevance judgment (0 for not relevant, 1 for "
            "relevant).\nRelevance:"
        ),
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    yes="1",
    no="0",
    instructed="instruction: {instruction}\nquery: ",
)
"""Source: mixedbread-ai's package ``mxbai-rerank``."""

GEMMA: Final = Prompt(
    before=(BOS, "A: "),
    between=("\n", "B: "),
    after=(
        "\n",
        (
            "Given a query A and a passage B, determine whether the passage contains an answer to "
            "the query by providing a prediction of either 'Yes' or 'No'."
        ),
    ),
    yes="Yes",
    no="",
)
"""Source: FlagEmbedding's ``FlagLLMReranker`` and ``LayerWiseFlagLLMReranker``."""

LIGHTWEIGHT: Final = GEMMA._replace(
    after=("\n", "Predict whether passage B contains an answer to query A.")
)
"""Source: FlagEmbedding's ``LightWeightFlagLLMReranker``."""

PROMPTS: Final[Mapping[str, Prompt]] = {"qwen3": QWEN3, "mxbai": MXBAI, "gemma": GEMMA}
"""Prompts by family, for models that are not recognized by name."""

FAMILIES: Final[Mapping[str, Family]] = {
    **{
        f"qwen3-reranker-{size}{form}": Family("decoder", QWEN3)
        for size in ("0.6b", "4b", "8b")
        for form in ("", "-seq-cls")
    },
    **{f"mxbai-rerank-{size}-v2": Family("decoder", MXBAI) for size in ("base", "large")},
    "bge-reranker-v2-gemma": Family("flag", GEMMA),
}
"""Families by the last part of a Hub name or folder, in lower case."""

_BGE: Final = {
    "en": EmbeddingPrompts("Represent this sentence for searching relevant passages: "),
    "zh": EmbeddingPrompts("为这个句子生成表示以用于检索相关文章："),  # noqa: RUF001
}

_E5: Final = EmbeddingPrompts("query: ", "passage: ")

EMBEDDING_PROMPTS: Final[Mapping[str, EmbeddingPrompts]] = {
    **{
        f"bge-{size}-{language}{version}": prompts
        for language, prompts in _BGE.items()
        for size in ("small", "base", "large")
        for version in ("", "-v1.5")
    },
    **{
        name: _E5
        for size in ("small", "base", "large")
        for name in (f"e5-{size}", f"e5-{size}-v2", f"multilingual-e5-{size}")
    },
}
"""Models that were trained with prompts but have none in their configuration, by the last part of
their name in lower case. Source: their model cards."""
