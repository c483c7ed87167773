"""Families of rerankers that their files alone do not tell from a chat model.

Their checkpoints are plain language models; what makes them rerankers is a prompt that stands in
their documentation. So they are known by name, compared whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Final, NamedTuple


class Prompt(NamedTuple):
    """A prompt, and the answers whose logits make the score.

    Attributes:
        before: Parts before the query; ``{instruction}`` stands for what is to be judged.
        between: Parts between query and document.
        after: Parts after the document.
        yes: The answer that means relevant.
        no: The other one; empty where the logit of ``yes`` alone is the score.
        instruction: What is used where none is given.
        instructed: The last part of ``before`` where an instruction is given and only then.
        whole: Whether all is tokenized together, and not part by part. A part by part prompt
            puts the last part of ``before`` to the query and of ``between`` to the document.
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
        """Return the prompt with an instruction in its place; None is its own."""
        if instruction is not None and self.instructed:
            last = self.instructed.replace(_PLACE, instruction)
            return self._replace(before=(*self.before[:-1], last))
        text = self.instruction if instruction is None else instruction
        return self._replace(before=tuple(part.replace(_PLACE, text) for part in self.before))

    @property
    def takes_instructions(self) -> bool:
        """Whether it has a place for one."""
        return bool(self.instruction or self.instructed)


_PLACE: Final = "{instruction}"

BOS: Final = "<bos>"
"""Stands for the tokenizer's own first token in a prompt."""

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
"""By the name of the family, for models that are named otherwise."""


class Family(NamedTuple):
    """What runs a family, and its prompt."""

    backend: str
    prompt: Prompt


NAMED: Final[Mapping[str, Family]] = {
    **dict.fromkeys(
        [
            f"qwen3-reranker-{size}{form}"
            for size in ("0.6b", "4b", "8b")
            for form in ("", "-seq-cls")
        ],
        Family("decoder", QWEN3),
    ),
    **dict.fromkeys(
        ["mxbai-rerank-base-v2", "mxbai-rerank-large-v2"],
        Family("decoder", MXBAI),
    ),
    "bge-reranker-v2-gemma": Family("flag", GEMMA),
}
"""By the last part of a Hub name or a folder, in lower case."""


def family(model: str) -> Family | None:
    """Return the family of a model, by its whole name.

    >>> family("Qwen/Qwen3-Reranker-0.6B").backend
    'decoder'
    >>> family("me/not-a-qwen3-reranker-0.6b") is None
    True
    """
    return NAMED.get(PurePath(model).name.lower())


class EmbeddingPrompts(NamedTuple):
    """What a family of bi-encoders puts before queries and documents."""

    query: str
    document: str = ""


_BGE_EN: Final = EmbeddingPrompts("Represent this sentence for searching relevant passages: ")
_BGE_ZH: Final = EmbeddingPrompts("为这个句子生成表示以用于检索相关文章：")  # noqa: RUF001
_E5: Final = EmbeddingPrompts("query: ", "passage: ")

EMBEDDING_PROMPTS: Final[Mapping[str, EmbeddingPrompts]] = {
    **{
        f"bge-{size}-en{version}": _BGE_EN
        for size in ("small", "base", "large")
        for version in ("", "-v1.5")
    },
    **{
        f"bge-{size}-zh{version}": _BGE_ZH
        for size in ("small", "base", "large")
        for version in ("", "-v1.5")
    },
    **{
        f"{language}e5-{size}{version}": _E5
        for language, versions in (("", ("", "-v2")), ("multilingual-", ("",)))
        for size in ("small", "base", "large")
        for version in versions
    },
}
"""Of models that were trained with prompts and whose configuration names none, by the last part of
their name in lower case. Source: their model cards."""


def embedding_prompts(model: str) -> EmbeddingPrompts:
    """Return the prompts of a bi-encoder's family; empty ones for most.

    >>> embedding_prompts("intfloat/multilingual-e5-small").document
    'passage: '
    """
    return EMBEDDING_PROMPTS.get(PurePath(model).name.lower(), EmbeddingPrompts(""))
