"""Hypothesis strategies for queries and documents."""

from __future__ import annotations

from hypothesis import strategies as st

any_text = st.text(st.characters(exclude_categories=()), max_size=12)
"""Any Python string, including lone surrogates, NUL, emoji and right-to-left marks."""

queries = any_text.filter(lambda text: bool(text.strip()))
"""Queries that are not blank."""

words = st.lists(st.sampled_from(["rain", "sun", "wind", "snow", "hail", "fog"]), max_size=6).map(
    " ".join
)
"""Short texts of few words: duplicates and ties are common."""

documents = st.lists(words | any_text, max_size=12)
"""Documents in retrieval order, including empty ones and duplicates."""
