"""Measurements of this package; each writes JSON into ``results`` and a table into ``docs``."""
