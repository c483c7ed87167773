"""Which models, texts and numbers of passages are measured, and for how long."""

from __future__ import annotations

from typing import Final, NamedTuple


class Cell(NamedTuple):
    """One measurement.

    Attributes:
        shape: Of :data:`benchmarks.speed.shapes.SHAPES`.
        texts: Of :data:`benchmarks.speed.workloads.TEXT_SETS`.
        passages: Candidates of each question.
        everybody: Whether all systems take part, or only the core: sentence-transformers and
            this package.
        seconds: How long the systems take turns; two rounds at least.
    """

    shape: str
    texts: str
    passages: int
    everybody: bool
    seconds: float

    @property
    def name(self) -> str:
        """What a result is found by."""
        return f"{self.shape}/{self.texts}/{self.passages}"


FULL: Final = (
    Cell("mini", "nq", 10, everybody=True, seconds=90),
    Cell("mini", "nq", 100, everybody=True, seconds=300),
    Cell("mini", "nq", 20, everybody=False, seconds=25),
    Cell("mini", "nq", 50, everybody=False, seconds=45),
    Cell("mini", "nq", 1_000, everybody=False, seconds=120),
    Cell("mini", "faq", 10, everybody=False, seconds=20),
    Cell("mini", "faq", 100, everybody=False, seconds=60),
    Cell("mini", "long", 10, everybody=False, seconds=30),
    Cell("mini", "long", 100, everybody=False, seconds=100),
    Cell("minilm-l12", "nq", 20, everybody=False, seconds=30),
    Cell("xlmr-base", "nq", 10, everybody=False, seconds=40),
    Cell("xlmr-large", "nq", 10, everybody=False, seconds=90),
)
"""Everybody where it matters most; the rest shows how the ratios change with length and size."""

QUICK: Final = (
    Cell("mini", "nq", 10, everybody=True, seconds=15),
    Cell("mini", "faq", 20, everybody=False, seconds=10),
    Cell("minilm-l12", "nq", 5, everybody=False, seconds=10),
)
"""Shows that everything works; the figures say little."""

QUICK_TEXTS: Final = 200
"""Texts of a set that a quick run looks at."""
