"""BGE's decoder rerankers, as FlagEmbedding defines them, without its batching."""

from __future__ import annotations
