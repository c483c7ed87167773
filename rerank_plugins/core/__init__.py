"""Rankings: rerankers, bi-encoders and cascades, and pure functions on their scores."""

from __future__ import annotations
