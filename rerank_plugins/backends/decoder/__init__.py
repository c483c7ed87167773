"""Decoders that answer whether a document fits a query: Qwen3-Reranker, mxbai-rerank-v2, ..."""

from __future__ import annotations
