"""FlagEmbedding's models: BGE's decoder rerankers, its encoder rerankers and BGE-M3."""

from __future__ import annotations
