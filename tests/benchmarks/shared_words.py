"""A system of the speed benchmark that needs no model."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any


class SharedWords:
    """A system that scores by shared words, and fails on request."""

    def __init__(self, *, offset: float = 0.0, delay_s: float = 0.0, **_: Any) -> None:
        self.offset, self.delay_s = offset, delay_s

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[str, Sequence[str]]:
        return query, texts

    def call(self, inputs: tuple[str, Sequence[str]]) -> list[float]:
        query, texts = inputs
        os.write(1, b"libraries print to stdout\n")
        if "exit" in texts:
            os.write(2, b"the end of the log\n")
            os._exit(3)
        if "hang" in texts:
            time.sleep(60)
        time.sleep(self.delay_s)
        return [float(len(set(query.split()) & set(text.split()))) for text in texts]

    def scores(self, output: list[float]) -> list[float]:
        return [score + self.offset for score in output]
