"""One queue and one worker an engine: the requests of all callers share its batches."""

from __future__ import annotations
