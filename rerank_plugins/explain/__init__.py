"""Explanations of rankings: movements, reasons and sentence effects, with their views.

:meth:`rerank_plugins.Ranking.explain` calls this package. Rich and pandas are imported when
their view is used.
"""

from __future__ import annotations

from rerank_plugins.explain.explainer import explain
from rerank_plugins.types import ExplainedDocument, Explanation, Highlight

__all__ = ["ExplainedDocument", "Explanation", "Highlight", "explain"]
