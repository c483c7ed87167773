"""Cross-encoder setups, and the code that runs them in LangChain and LlamaIndex."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from rerank_plugins._lazy import require
from rerank_plugins.config import MINI, ValueGroup
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.engine.backend import CrossEncoderBackend
from rerank_plugins.errors import ConfigurationError

SCORING_OPTIONS: Final = frozenset(
    {
        *("backend", "device", "dtype", "max_length", "revision", "cache_folder"),
        *("local_files_only", "trust_remote_code", "prompts", "long_documents"),
    }
)
"""Options that change the raw scores or their cost."""

ON_CPU: Final = (("torch", "float32"), ("torch", "bfloat16"), ("openvino", "int8"))
"""Backends and data types to try on a CPU; those that cannot be loaded are skipped."""

ON_GPU: Final = (("torch", "float16"), ("torch", "bfloat16"))

_SELF_EXPLANATORY: Final = ("backend", "dtype")


@dataclass(frozen=True, init=False)
class Setup:
    """A cross-encoder with settings of :class:`~rerank_plugins.Reranker`.

    Attributes:
        model: Name, folder or backend object.
        options: Settings that affect scoring, and the fusion.

    Example:
        >>> print(Setup("mini", backend="torch", dtype="float32", max_length=64))
        mini (torch, float32, max_length=64)
    """

    model: str | Path | CrossEncoderBackend
    options: Mapping[str, Any]

    def __init__(self, model: str | Path | CrossEncoderBackend = MINI, /, **options: Any) -> None:  # noqa: ANN401
        """Set the model and the settings that differ from the defaults.

        Raises:
            ConfigurationError: If an option is not a scoring or fusion setting.
        """
        allowed = SCORING_OPTIONS | {"fusion"}
        unknown = sorted(options.keys() - allowed)
        if unknown:
            message = f"options contain {unknown[0]!r}; a setup takes {', '.join(sorted(allowed))}."
            raise ConfigurationError(message)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "options", options)

    @property
    def name(self) -> str:
        """The name of the model."""
        if isinstance(self.model, (str, Path)):
            return str(self.model)
        return self.model.identity.model

    @property
    def scoring(self) -> Setup:
        """The setup without fusion; its raw scores are the same."""
        shared = {name: self.options[name] for name in SCORING_OPTIONS & self.options.keys()}
        return Setup(self.model, **shared)

    def settings(self) -> dict[str, Any]:
        """Return keyword arguments for :class:`~rerank_plugins.Reranker`."""
        return {"model": self.model, **self.options}

    def reranker(self) -> Reranker:
        """Return a reranker with these settings.

        Raises:
            ConfigurationError: If a setting is invalid on this machine.
        """
        return Reranker(**self.settings())

    def __str__(self) -> str:
        """Return the model and its options."""
        options = [
            str(value) if name in _SELF_EXPLANATORY else f"{name}={_label(value)}"
            for name, value in self.options.items()
        ]
        return f"{self.name} ({', '.join(options)})" if options else self.name


class RerankStep(NamedTuple):
    """One cross-encoder over the top candidates of the step before it."""

    setup: Setup
    depth: int

    def __str__(self) -> str:
        """Return the setup and the depth."""
        return f"{self.setup}, top {self.depth}"


def default_setups(models: Iterable[str]) -> list[Setup]:
    """Return each model with the backends and data types that fit this machine."""
    variants = ON_GPU if require("torch", None).cuda.is_available() else ON_CPU
    return [
        Setup(model, backend=backend, dtype=dtype)
        for model in models
        for backend, dtype in variants
    ]


def langchain_code(encoder: str, steps: Sequence[RerankStep], top_n: int = 10) -> str:
    """Return LangChain code that retrieves from a list ``texts``.

    Args:
        encoder: The bi-encoder.
        steps: None for the bi-encoder alone, one for a cross-encoder, more for a cascade.
        top_n: Number of results.
    """
    names = "BiEncoderEmbeddings, RerankRetriever" if steps else "BiEncoderEmbeddings"
    settings, imports = _arguments(steps)
    lines = [
        "from langchain_core.vectorstores import InMemoryVectorStore",
        *imports,
        f"from rerank_plugins.langchain import {names}",
        "",
        "# Any other vector store works with the same embeddings.",
        "store = InMemoryVectorStore.from_texts(",
        f"    texts, BiEncoderEmbeddings(model={_literal(encoder)})",
        ")",
    ]
    if steps:
        lines += [
            "retriever = RerankRetriever(",
            "    base_retriever=store.as_retriever(),",
            f"    k={steps[0].depth},",
            f"    top_n={min(top_n, steps[0].depth)},",
            *settings,
            ")",
        ]
    else:
        lines.append(f'retriever = store.as_retriever(search_kwargs={{"k": {top_n}}})')
    return "\n".join([*lines, 'documents = retriever.invoke("your question")']) + "\n"


def llama_index_code(encoder: str, steps: Sequence[RerankStep], top_n: int = 10) -> str:
    """Return LlamaIndex code that retrieves from a list ``texts``.

    Arguments as in :func:`langchain_code`.
    """
    names = "BiEncoderEmbedding, CrossEncoderPostprocessor" if steps else "BiEncoderEmbedding"
    settings, imports = _arguments(steps)
    depth = steps[0].depth if steps else top_n
    lines = [
        "from llama_index.core import Document, VectorStoreIndex",
        *imports,
        f"from rerank_plugins.llama_index import {names}",
        "",
        "# Any other index works with the same embeddings.",
        "index = VectorStoreIndex.from_documents(",
        "    [Document(text=text) for text in texts],",
        f"    embed_model=BiEncoderEmbedding(model={_literal(encoder)}),",
        ")",
        f'nodes = index.as_retriever(similarity_top_k={depth}).retrieve("your question")',
    ]
    if steps:
        lines += [
            "postprocessor = CrossEncoderPostprocessor(",
            f"    top_n={min(top_n, depth)},",
            *settings,
            ")",
            'nodes = postprocessor.postprocess_nodes(nodes, query_str="your question")',
        ]
    return "\n".join(lines) + "\n"


def _arguments(steps: Sequence[RerankStep]) -> tuple[list[str], list[str]]:
    """Return the lines of the reranker's arguments, and the imports that they need."""
    if not steps:
        return [], []
    options = [value for step in steps for value in step.setup.options.values()]
    names = {type(value).__name__ for value in options if isinstance(value, ValueGroup)}
    if len(steps) == 1:
        settings = steps[0].setup.settings()
        lines = [f"    {name}={_literal(value)}," for name, value in settings.items()]
        return lines, [f"from rerank_plugins import {', '.join(sorted(names))}"] if names else []
    names |= {"Cascade", "Reranker"}
    lines = ["    model=Cascade(", "        ["]
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        settings = step.setup.settings()
        arguments = ", ".join(f"{name}={_literal(value)}" for name, value in settings.items())
        stage = f"Reranker({arguments})"
        if following is not None:
            stage = f"({stage}, {following.depth})"
        lines.append(f"            {stage},")
    return [*lines, "        ]", "    ),"], [
        f"from rerank_plugins import {', '.join(sorted(names))}"
    ]


def _label(value: object) -> str:
    return repr(value) if isinstance(value, ValueGroup) else str(value)


def _literal(value: object) -> str:
    """Return Python code for a value, with strings in double quotes."""
    return json.dumps(str(value)) if isinstance(value, (str, Path)) else repr(value)
