"""Explaining a ranking: what moved and why, as a table, a frame and a page.

``ranking.explain()`` comes here. Rich and pandas are imported when their view is asked for.
"""

from rerank_plugins.core.explanation import ExplainedDocument, Explanation, Highlight
from rerank_plugins.explanations.making import explain

__all__ = ["ExplainedDocument", "Explanation", "Highlight", "explain"]
