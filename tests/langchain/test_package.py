"""Public names and imports of rerank_plugins.langchain."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import rerank_plugins.langchain as adapter
from rerank_plugins.errors import MissingDependencyError


def test_public_names() -> None:
    assert sorted(adapter.__all__) == adapter.__all__
    assert set(adapter.__all__) <= set(dir(adapter))
    for name in adapter.__all__:
        assert getattr(adapter, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Compressor'"):
        _ = adapter.Compressor


def test_without_langchain_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core", None)
    fresh = importlib.reload(adapter)
    with pytest.raises(MissingDependencyError, match=r'pip install "rerank-plugins\[langchain\]"'):
        _ = fresh.CrossEncoderCompressor


def test_importing_the_package_loads_neither_langchain_nor_torch() -> None:
    code = (
        "import sys, rerank_plugins.langchain; "
        "sys.exit(bool({'langchain_core', 'torch', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603


def test_the_adapters_load_no_model_library_and_no_classic_langchain() -> None:
    code = (
        "import sys; from rerank_plugins.langchain import *; "
        "CrossEncoderCompressor(); BiEncoderEmbeddings(); "
        "sys.exit(bool({'torch', 'transformers', 'langchain_classic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603
