"""Anything that sentence-transformers' CrossEncoder loads, scored by its own modules."""
