"""A system for the speed benchmark's child process that needs no model."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

Inputs = tuple[str, Sequence[str]]


class SharedWords:
    """Scores a text by the words that it shares with the query, and misbehaves when told to."""

    def __init__(
        self, *, model: str, device: str, dtype: str, offset: float = 0.0, delay_s: float = 0.0
    ) -> None:
        if model == "missing":
            message = f"no model {model!r} on {device} in {dtype}"
            raise FileNotFoundError(message)
        self.offset, self.delay_s = offset, delay_s

    def inputs(self, query: str, texts: Sequence[str]) -> Inputs:
        return query, texts

    def call(self, inputs: Inputs) -> list[float]:
        query, texts = inputs
        os.write(1, b"libraries print what they like\n")
        if "die" in texts:
            os.write(2, b"the last words\n")
            os._exit(3)
        if "hang" in texts:
            time.sleep(60)
        time.sleep(self.delay_s)
        return [float(len(set(query.split()) & set(text.split()))) for text in texts]

    def scores(self, output: list[float]) -> list[float]:
        return [score + self.offset for score in output]
