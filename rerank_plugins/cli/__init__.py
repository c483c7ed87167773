"""The command line: ``rerank-plugins`` and its commands (extra ``cli``)."""

from __future__ import annotations

import sys

from rerank_plugins._lazy import require
from rerank_plugins.errors import MissingDependencyError


def main() -> None:
    """Run the command line; without the extra ``cli``, print how to install it."""
    try:
        for module in ("rich", "typer"):
            require(module, "cli")
    except MissingDependencyError as error:
        sys.stderr.write(f"rerank-plugins: {error}\n")
        raise SystemExit(2) from None
    from rerank_plugins.cli.app import app  # noqa: PLC0415  (needs the extra)

    app()
