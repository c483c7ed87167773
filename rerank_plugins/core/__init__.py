"""The scoring core: numpy and the standard library only."""

from __future__ import annotations
