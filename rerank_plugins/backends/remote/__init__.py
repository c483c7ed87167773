"""Cross-encoders that run elsewhere, over HTTP: TEI, vLLM, Infinity, Cohere, Jina, our own."""

from __future__ import annotations
