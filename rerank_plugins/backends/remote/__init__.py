"""Cross-encoders behind HTTP APIs: TEI, vLLM, Infinity, Cohere, Jina and rerank-plugins."""

from __future__ import annotations
