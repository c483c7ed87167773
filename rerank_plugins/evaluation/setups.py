"""Candidate setups of a plan: what to compute with, and the code to paste for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rerank_plugins._optional import require
from rerank_plugins.core.config import MINI
from rerank_plugins.core.reranker import Reranker

ON_CPU: Final = (
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("openvino", "int8"),
)
"""Backends and data types to try on a CPU. What cannot be loaded is skipped, and said so."""

ON_GPU: Final = (("torch", "float16"), ("torch", "bfloat16"))


@dataclass(frozen=True)
class Setup:
    """One way to run one cross-encoder.

    Attributes:
        model: Its name or folder.
        backend: What computes.
        dtype: Data type of the arithmetic.
        max_length: Most tokens of a pair.
        device: A torch device; None chooses.
    """

    model: str = MINI
    backend: str = "auto"
    dtype: str = "auto"
    max_length: int = 512
    device: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return what to call :class:`~rerank_plugins.Reranker` with."""
        told = {
            "model": self.model,
            "backend": self.backend,
            "dtype": self.dtype,
            "max_length": self.max_length,
        }
        return told if self.device is None else {**told, "device": self.device}

    def reranker(self) -> Reranker:
        """Return a reranker of this setup.

        Raises:
            ConfigurationError: If there is no such backend or data type here.
        """
        return Reranker(**self.settings())

    def __str__(self) -> str:
        """Return it in words, as in ``mini (torch, float32)``."""
        return f"{self.model} ({self.backend}, {self.dtype})"


def default_setups(models: Iterable[str]) -> list[Setup]:
    """Return each model with the backends and data types that fit this machine."""
    on = ON_GPU if require("torch", None).cuda.is_available() else ON_CPU
    return [Setup(model, backend, dtype) for model in models for backend, dtype in on]


@dataclass(frozen=True)
class Step:
    """A cross-encoder over the best so many candidates of what went before it."""

    setup: Setup
    depth: int


@dataclass(frozen=True)
class Recipe:
    """How to answer a question: the bi-encoder's search, and what reranks it.

    Attributes:
        encoder: The bi-encoder.
        steps: None is the bi-encoder alone, one a cross-encoder, more a cascade.
    """

    encoder: str
    steps: Sequence[Step] = ()

    @property
    def depth(self) -> int:
        """How many candidates the first stage has to find."""
        return self.steps[0].depth if self.steps else 10

    @property
    def family(self) -> str:
        """What computes, whatever the depth."""
        return ", then ".join(str(step.setup) for step in self.steps) or "bi-encoder alone"

    def __str__(self) -> str:
        """Return it in words."""
        if not self.steps:
            return f"{self.encoder} bi-encoder alone"
        return ", then ".join(f"{step.setup} over {step.depth}" for step in self.steps)

    def langchain(self, top_n: int = 10) -> str:
        """Return code for LangChain that retrieves like this; ``texts`` are the caller's."""
        imports = ["from langchain_core.vectorstores import InMemoryVectorStore"]
        names = "BiEncoderEmbeddings, RerankRetriever" if self.steps else "BiEncoderEmbeddings"
        settings, needed = self._settings()
        imports += [*needed, f"from rerank_plugins.langchain import {names}"]
        embed = f"BiEncoderEmbeddings(model={_literal(self.encoder)})"
        lines = [
            *imports,
            "",
            "# Your own vector store does as well, with the same embeddings.",
            f"store = InMemoryVectorStore.from_texts(texts, {embed})",
        ]
        if not self.steps:
            lines.append(f'retriever = store.as_retriever(search_kwargs={{"k": {top_n}}})')
        else:
            lines += [
                "retriever = RerankRetriever(",
                "    base_retriever=store.as_retriever(),",
                f"    k={self.depth},",
                f"    top_n={min(top_n, self.depth)},",
                *settings,
                ")",
            ]
        return "\n".join([*lines, 'documents = retriever.invoke("your question")']) + "\n"

    def llama_index(self, top_n: int = 10) -> str:
        """Return code for LlamaIndex that retrieves like this; ``texts`` are the caller's."""
        names = ["BiEncoderEmbedding", *(["CrossEncoderPostprocessor"] if self.steps else [])]
        settings, needed = self._settings()
        k = self.depth if self.steps else top_n
        lines = [
            "from llama_index.core import Document, VectorStoreIndex",
            *needed,
            f"from rerank_plugins.llama_index import {', '.join(names)}",
            "",
            "# Your own index does as well, with the same embeddings.",
            "index = VectorStoreIndex.from_documents(",
            "    [Document(text=text) for text in texts],",
            f"    embed_model=BiEncoderEmbedding(model={_literal(self.encoder)}),",
            ")",
            f'nodes = index.as_retriever(similarity_top_k={k}).retrieve("your question")',
        ]
        if self.steps:
            lines += [
                "postprocessor = CrossEncoderPostprocessor(",
                f"    top_n={min(top_n, self.depth)},",
                *settings,
                ")",
                'nodes = postprocessor.postprocess_nodes(nodes, query_str="your question")',
            ]
        return "\n".join(lines) + "\n"

    def _settings(self) -> tuple[list[str], list[str]]:
        """Return the arguments that say what reranks, and the imports they need."""
        if not self.steps:
            return [], []
        if len(self.steps) == 1:
            chosen = self.steps[0].setup.settings()
            return [f"    {name}={_literal(value)}," for name, value in chosen.items()], []
        stages = []
        for step, after in zip(self.steps, [*self.steps[1:], None], strict=True):
            told = ", ".join(
                f"{name}={_literal(one)}" for name, one in step.setup.settings().items()
            )
            made = f"Reranker({told})"
            stages.append(made if after is None else f"({made}, {after.depth})")
        cascade = ["    model=Cascade(", "        ["]
        cascade += [f"            {stage}," for stage in stages]
        return [*cascade, "        ]", "    ),"], ["from rerank_plugins import Cascade, Reranker"]


def _literal(value: object) -> str:
    """Return Python code for a value, strings in double quotes."""
    return json.dumps(value) if isinstance(value, str) else repr(value)
