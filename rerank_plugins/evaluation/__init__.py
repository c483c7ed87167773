"""Measuring rankings: retrieval sets, metrics and honest comparisons."""
