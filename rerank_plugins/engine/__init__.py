"""The engine: one queue, one set of threads and one cache per model and process.

It computes text pairs and texts for all callers at once, and knows no documents. Read
:mod:`rerank_plugins.engine.backend` first, then :mod:`rerank_plugins.engine.engine`.
"""

from __future__ import annotations
