"""Choice of an option within a latency budget, with its confidence: pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.evaluation.metrics import Difference, folds_of, paired_bootstrap

Floats = NDArray[np.float64]
Verdict = Literal[
    "reranking helps",
    "reranking hurts",
    "reranking does not help",
    "too few questions to tell",
    "no time to rerank",
    "agreement only",
]

RELEVANT_GAIN: Final = 0.02
"""Smallest gain of nDCG that matters to users. A gain that is certainly smaller is no help."""

MIN_QUESTIONS: Final = 20
"""With fewer questions, bootstrap intervals are too narrow."""

RESAMPLES: Final = 1_000


@dataclass(frozen=True)
class Decision:
    """The chosen option; option 0 is always the bi-encoder alone.

    Attributes:
        chosen: Number of the option.
        verdict: The effect of reranking.
        gain: Gain of reranking within the budget over the bi-encoder alone, cross-validated,
            with its 95% interval; None if no reranking fits the budget, or without labels.
        share: Share of bootstrap resamples of the questions in which the same option is chosen.
        questions_needed: Approximate number of questions that would show a gain of this size;
            None if it is already shown, or the gain is 0.
    """

    chosen: int
    verdict: Verdict
    gain: Difference | None
    share: float
    questions_needed: int | None = None

    @property
    def provisional(self) -> bool:
        """Whether more questions may change the decision."""
        return self.verdict == "too few questions to tell"


def cheapest_good(
    means: Floats, cost: Floats, allowed: NDArray[np.bool_], quality: float
) -> NDArray[np.intp]:
    """Return the cheapest allowed option that reaches a share of the best allowed one's quality.

    The means have shape ``(..., options)``. The first of equally cheap options is chosen.

    >>> means = np.array([0.7, 0.795, 0.8])
    >>> int(cheapest_good(means, np.array([1.0, 2, 9]), np.full(3, True), 0.99))
    1
    """
    best = np.where(allowed, means, -np.inf).max(axis=-1, keepdims=True)
    # Rounding: sums of the same values in another order may differ slightly.
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
    labeled: bool = True,
    seed: int = 0,
) -> Decision:
    """Choose an option.

    Args:
        values: Quality, one row per option and one column per question; row 0 is the
            bi-encoder alone. Without ``labeled`` it is agreement with a model.
        cost: Typical seconds of each option.
        slow: Seconds that must not exceed the budget, such as the 95th percentile.
        budget: The budget in seconds.
        quality: Share of the best quality within the budget that is good enough.
        labeled: Whether ``values`` come from labels.
        seed: Seed of folds and resampling.
    """
    fits = slow <= budget
    if not fits[1:].any():
        return Decision(0, "no time to rerank", None, 1.0)
    best = int(cheapest_good(values.mean(axis=1), cost, fits, quality))
    count = values.shape[1]
    # The share of each question in each bootstrap resample, one row per resample.
    resamples = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    weights = resamples / count
    choices = cheapest_good(weights @ values.T, cost, fits, quality)

    def share(option: int) -> float:
        return float((choices == option).mean())

    if not labeled:
        return Decision(best, "agreement only", None, share(best))
    gain, gains = _gain(values, cost, fits, quality, seed)
    if count >= MIN_QUESTIONS:
        if gain.high < 0:
            return Decision(0, "reranking hurts", gain, float((weights @ gains < 0).mean()))
        if gain.low > 0:
            return Decision(best, "reranking helps", gain, share(best))
        if gain.high < RELEVANT_GAIN:
            return Decision(0, "reranking does not help", gain, share(0))
    needed = _needed(gains, count)
    return Decision(best, "too few questions to tell", gain, share(best), needed)


def frontier(quality: Floats, cost: Floats) -> list[int]:
    """Return the options that no other beats in both quality and cost, from cheap to expensive.

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
    """Return the cross-validated gain of the best reranking, and the gain of each question."""
    reranking = fits.copy()
    reranking[0] = False
    count = values.shape[1]
    # A single question is its own training fold.
    fold = folds_of(count, min(5, count), seed) if count > 1 else np.zeros(1)
    held_out = np.zeros(count)
    for part in np.unique(fold):
        train = fold != part if count > 1 else fold == part
        chosen = int(cheapest_good(values[:, train].mean(axis=1), cost, reranking, quality))
        held_out[fold == part] = values[chosen, fold == part]
    return paired_bootstrap(values[0], held_out, seed), held_out - values[0]


def _needed(gains: Floats, count: int) -> int | None:
    mean = float(gains.mean())
    if count < 2 or mean == 0:  # noqa: PLR2004
        return None
    power = (1.96 + 0.84) ** 2  # for a test at the 5% level with a power of 80%
    needed = math.ceil(power * float(gains.var(ddof=1)) / mean**2)
    return max(needed, MIN_QUESTIONS) if needed > count or count < MIN_QUESTIONS else None
