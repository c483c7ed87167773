"""Explaining a ranking: what moved and why, as a table, a frame and a page.

``ranking.explain()`` comes here. Rich and pandas are imported when their view is asked for.
"""

from __future__ import annotations

from rerank_plugins.explain.explain import explain
from rerank_plugins.types import ExplainedDocument, Explanation, Highlight

__all__ = ["ExplainedDocument", "Explanation", "Highlight", "explain"]
