"""Faults and hostile inputs: how many were tried, and what came of them."""
