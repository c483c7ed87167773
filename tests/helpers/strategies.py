"""Hypothesis strategies that several test modules share."""

from __future__ import annotations

from hypothesis import strategies as st

any_text = st.text(st.characters(exclude_categories=()), max_size=12)
"""Every Python string: lone surrogates, NUL, emoji and right-to-left marks included."""

queries = any_text.filter(lambda text: bool(text.strip()))
"""Every query that is not empty."""

words = st.lists(st.sampled_from(["rain", "sun", "wind", "snow", "hail", "fog"]), max_size=6).map(
    " ".join
)
"""Short texts of few words, so that duplicates and ties are common."""

documents = st.lists(words | any_text, max_size=12)
"""Documents in first-stage order, empty ones and duplicates included."""
