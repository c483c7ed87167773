"""Public names of rerank_plugins.llama_index, with and without LlamaIndex."""

from __future__ import annotations

import doctest
import importlib
import sys

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.postprocessor.types import BaseNodePostprocessor

import rerank_plugins.llama_index as adapter
from rerank_plugins.errors import MissingDependencyError


def test_the_public_names_are_llama_index_components() -> None:
    assert issubclass(adapter.CrossEncoderPostprocessor, BaseNodePostprocessor)
    assert issubclass(adapter.BiEncoderEmbedding, BaseEmbedding)
    assert set(adapter.__all__) <= set(dir(adapter))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'CrossEncoder'"):
        adapter.CrossEncoder  # noqa: B018


@pytest.mark.parametrize("name", ["CrossEncoderPostprocessor", "BiEncoderEmbedding"])
def test_without_llama_index_the_message_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "llama_index.core", None)
    with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[llama-index\]"):
        getattr(adapter, name)


@pytest.mark.parametrize("module", ["postprocessor", "embeddings"])
def test_the_docstring_examples_run(module: str) -> None:
    imported = importlib.import_module(f"rerank_plugins.llama_index.{module}")
    result = doctest.testmod(imported)
    assert result.attempted > 0
    assert result.failed == 0
