"""BGE's decoder rerankers, as FlagEmbedding defines them, without its batching."""
