"""Which of several measured options to take, and how sure that is: pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.evaluation.folds import folds_of
from rerank_plugins.evaluation.metrics import Difference, paired_bootstrap

Floats = NDArray[np.float64]
Verdict = Literal[
    "reranking helps",
    "reranking hurts",
    "reranking does not help",
    "too few questions to tell",
    "no time to rerank",
    "agreement only",
]

MATTERS: Final = 0.02
"""A difference of nDCG smaller than this is none that users notice: a gain that is certainly
smaller is no help, and one of which not even that is certain is unknown."""

LEAST_QUESTIONS: Final = 20
"""With fewer, an interval from resampling is narrower than what it stands for."""

RESAMPLES: Final = 1_000
_FOLDS: Final = 5
_POWER: Final = (1.96 + 0.84) ** 2
"""For a test at 5% that finds a difference four times in five."""


@dataclass(frozen=True)
class Decision:
    """What to take. Option 0 is always the bi-encoder alone.

    Attributes:
        chosen: Number of the option.
        verdict: What reranking does here.
        gain: What reranking within the budget is worth over the bi-encoder alone, on questions
            that the option was not chosen on (cross-validated), with its 95% interval; None
            where nothing fits, or without labels.
        share: In what share of resamples of the questions the same option is chosen.
        questions_needed: About how many questions would show a gain of this size, where it is
            not shown; None where it is, or would never be.
    """

    chosen: int
    verdict: Verdict
    gain: Difference | None
    share: float
    questions_needed: int | None = None

    @property
    def provisional(self) -> bool:
        """Whether more questions may well change it."""
        return self.verdict == "too few questions to tell"


def cheapest_good(
    means: Floats, cost: Floats, allowed: NDArray[np.bool_], quality: float
) -> NDArray[np.intp]:
    """Return the cheapest allowed option that reaches a share of the best allowed one's quality.

    Args:
        means: Quality of each option, shape ``(..., options)``.
        cost: Seconds of each option; of equal ones the first is taken.
        allowed: Which options may be chosen, at least one.
        quality: Share of the best, above 0 up to 1.

    >>> means = np.array([0.7, 0.795, 0.8])
    >>> int(cheapest_good(means, np.array([1.0, 2, 9]), np.full(3, True), 0.99))
    1
    """
    best = np.where(allowed, means, -np.inf).max(axis=-1, keepdims=True)
    # Sums of the same values in another order may differ by an ulp.
    good = allowed & (means >= quality * best - 1e-12)
    chosen: NDArray[np.intp] = np.argmin(np.where(good, cost, np.inf), axis=-1)
    return chosen


def decide(
    values: Floats,
    cost: Floats,
    slow: Floats,
    budget: float,
    *,
    quality: float = 0.99,
    labelled: bool = True,
    seed: int = 0,
) -> Decision:
    """Choose an option.

    Args:
        values: Quality, one row an option and one column a question; row 0 is the bi-encoder
            alone.
        cost: Typical seconds of each option.
        slow: Seconds that must not exceed the budget, such as the 95th percentile.
        budget: Seconds.
        quality: Share of the best quality within the budget that is good enough.
        labelled: Whether the quality is that of labels, or only agreement with a model.
        seed: Of folds and resampling.
    """
    fits = slow <= budget
    if not fits[1:].any():
        return Decision(0, "no time to rerank", None, 1.0)
    everything = int(cheapest_good(values.mean(axis=1), cost, fits, quality))
    drawn = _weights(values.shape[1], seed)
    choices = cheapest_good(drawn @ values.T, cost, fits, quality)

    def share(option: int) -> float:
        return float((choices == option).mean())

    if not labelled:
        return Decision(everything, "agreement only", None, share(everything))
    gain, gains = _gain(values, cost, fits, quality, seed)
    count = values.shape[1]
    if count >= LEAST_QUESTIONS:
        if gain.high < 0:
            return Decision(0, "reranking hurts", gain, float((drawn @ gains < 0).mean()))
        if gain.low > 0:
            return Decision(everything, "reranking helps", gain, share(everything))
        if gain.high < MATTERS:
            return Decision(0, "reranking does not help", gain, share(0))
    needed = _needed(gains, count)
    return Decision(everything, "too few questions to tell", gain, share(everything), needed)


def frontier(quality: Floats, cost: Floats) -> list[int]:
    """Return the options that no other beats in both, from cheap to dear.

    >>> frontier(np.array([0.7, 0.6, 0.8, 0.8]), np.array([1.0, 2.0, 3.0, 4.0]))
    [0, 2]
    """
    kept: list[int] = []
    for option in np.lexsort((-quality, cost)).tolist():
        if not kept or quality[option] > quality[kept[-1]]:
            kept.append(option)
    return kept


def _gain(
    values: Floats, cost: Floats, fits: NDArray[np.bool_], quality: float, seed: int
) -> tuple[Difference, Floats]:
    """Return what the best reranking is worth, each question measured by the others' choice."""
    reranking = fits.copy()
    reranking[0] = False
    count = values.shape[1]
    if count < 2:  # noqa: PLR2004
        chosen = int(cheapest_good(values.mean(axis=1), cost, reranking, quality))
        held = values[chosen]
    else:
        parts = min(_FOLDS, count)
        fold = folds_of(count, parts, seed)
        held = np.zeros(count)
        for part in range(parts):
            means = values[:, fold != part].mean(axis=1)
            chosen = int(cheapest_good(means, cost, reranking, quality))
            held[fold == part] = values[chosen, fold == part]
    return paired_bootstrap(values[0], held, seed), held - values[0]


def _weights(count: int, seed: int) -> Floats:
    """Return how often each question is drawn, as a share, one row a resample."""
    rng = np.random.default_rng(seed)
    drawn: Floats = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count
    return drawn


def _needed(gains: Floats, count: int) -> int | None:
    mean = float(gains.mean())
    if count < 2 or mean == 0:  # noqa: PLR2004
        return None
    needed = math.ceil(_POWER * float(gains.var(ddof=1)) / mean**2)
    return max(needed, LEAST_QUESTIONS) if needed > count or count < LEAST_QUESTIONS else None
