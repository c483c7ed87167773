"""LangChain's ``CrossEncoderReranker`` over its ``HuggingFaceCrossEncoder``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_community.cross_encoders import HuggingFaceCrossEncoder
from langchain_core.documents import Document

Scored = tuple[Sequence[Document], Sequence[float]]


class Remembering(HuggingFaceCrossEncoder):  # type: ignore[misc]  # not installed here
    """Keeps the scores of the last call: the documents come back in order, but without them."""

    last: Any = None

    def score(self, text_pairs: list[tuple[str, str]]) -> Any:
        """Score pairs."""
        self.last = super().score(text_pairs)
        return self.last


class LangChain:
    """Documents in and out."""

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Load the model."""
        options = {
            "device": device,
            "max_length": 512,
            "model_kwargs": {"dtype": getattr(torch, dtype)},
        }
        self._model = Remembering(model_name=model, model_kwargs=options)
        self._reranker = CrossEncoderReranker(model=self._model, top_n=sys.maxsize)

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[str, list[Document]]:
        """Return documents that know their position."""
        return query, [Document(text, id=str(number)) for number, text in enumerate(texts)]

    def call(self, inputs: tuple[str, list[Document]]) -> Sequence[Document]:
        """Rerank documents."""
        query, documents = inputs
        return self._reranker.compress_documents(documents, query)

    def scores(self, output: Sequence[Document]) -> list[float]:
        """Return the model's scores, if the documents came back in their order."""
        scores = [float(score) for score in self._model.last]
        returned = [scores[int(str(document.id))] for document in output]
        if returned != sorted(scores, reverse=True):
            message = "the documents did not come back in the order of their scores."
            raise ValueError(message)
        return scores
