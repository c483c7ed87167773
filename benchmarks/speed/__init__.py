"""How fast pairs are scored, beside every peer, in one run: ``python -m benchmarks.speed``."""
