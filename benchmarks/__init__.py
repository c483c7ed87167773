"""Benchmarks of the package; see ``python -m benchmarks --help``."""
