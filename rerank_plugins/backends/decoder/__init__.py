"""Decoder rerankers such as Qwen3-Reranker and mxbai-rerank-v2."""

from __future__ import annotations
