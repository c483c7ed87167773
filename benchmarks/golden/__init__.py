"""Scores of ``mini`` by the reference, and how far each of our ways is from them."""
