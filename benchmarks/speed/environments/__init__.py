"""Environments of the peers; see :mod:`benchmarks.speed.environments.__main__`."""
