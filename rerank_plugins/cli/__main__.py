"""``python -m rerank_plugins.cli``."""

from __future__ import annotations

from rerank_plugins.cli import main

if __name__ == "__main__":
    main()
