"""The question that users bring: which setup, how deep, within my time, on my data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

import numpy as np

from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.checks import check_count, check_number
from rerank_plugins.core.config import MINI
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation.beir import RetrievalSet
from rerank_plugins.evaluation.deciding import decide, frontier
from rerank_plugins.evaluation.measuring import choose_depths, load, score_all
from rerank_plugins.evaluation.metrics import bootstrapped_mean, per_query
from rerank_plugins.evaluation.plans import Option, Plan
from rerank_plugins.evaluation.pools import Pool
from rerank_plugins.evaluation.running import environment
from rerank_plugins.evaluation.sets import as_set
from rerank_plugins.evaluation.setups import Setup, default_setups
from rerank_plugins.evaluation.trials import largest, taken_for_right, trials_of

_POOL: Final = 1000
"""Candidates of a question, at most."""


def plan(
    data: str | Path | RetrievalSet,
    budget_ms: float = 100.0,
    *,
    quality: float = 0.99,
    models: Sequence[str] = (MINI,),
    setups: Sequence[Setup] | None = None,
    encoder: str = MINI,
    measure: str = "nDCG@10",
    split: str | None = "test",
    max_questions: int = 300,
    time_limit_s: float = 150.0,
    seed: int = 0,
    show_progress: bool | None = None,
) -> Plan:
    """Find the setup for your data, your machine and your latency budget.

    Embeds the passages, scores the bi-encoder's candidates with every setup, one question at
    a time, and times each request. From that come the quality of every depth, and a cost model
    (overhead, a pair, a token) that predicts its latency. Of what keeps to the budget, the
    cheapest option is taken whose quality is at least ``quality`` of the best. Nothing else
    should run on the machine meanwhile.

    Args:
        data: A folder in BEIR's layout, or a set. Some hundred labelled questions; without
            judgments quality is agreement with the largest model, which is a proxy.
        budget_ms: Milliseconds that 95% of questions must keep to, both stages together.
        quality: Share of the best quality within the budget that is good enough.
        models: Cross-encoders to try, with the backends and data types that fit this machine.
        setups: What to try instead, setup by setup.
        encoder: The bi-encoder.
        measure: A name of ir_measures, higher being better.
        split: Which judgments of a folder; None ignores them.
        max_questions: A random sample of so many, where there are more.
        time_limit_s: About how long scoring may take, after the passages are embedded. Where
            it is too short, fewer candidates and then fewer questions are scored, though at
            least 20.
        seed: Of samples and resampling.
        show_progress: Whether to show a progress bar; None shows it in a terminal.

    Raises:
        ConfigurationError: If a setting is out of range, or no setup can be used here.
        InvalidInputError: If the set is empty.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    start = perf_counter()
    check_number("budget_ms", budget_ms, low=1)
    check_number("time_limit_s", time_limit_s, low=1)
    check_number("quality", quality, low=0.01, high=1)
    check_count("max_questions", max_questions)
    show = sys.stderr.isatty() if show_progress is None else show_progress
    wanted = default_setups(models) if setups is None else setups
    if not wanted:
        message = "there is nothing to try: models or setups is empty."
        raise ConfigurationError(message)
    data = _sample(as_set(data, split), max_questions, seed)
    pool = Pool(data, BiEncoder(encoder), _POOL)
    measured, skipped = load(pool, wanted)
    if not measured:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        message = f"no setup can be used here ({reasons})."
        raise ConfigurationError(message)
    alone = np.array([pool.answer(row, None, 10) for row in range(len(pool.questions))])
    count = choose_depths(measured, pool, budget_ms / 1_000, time_limit_s)
    rows = np.random.default_rng(seed).permutation(len(pool.questions))[:count].tolist()
    rows = rows[: score_all(measured, rows, 1.25 * time_limit_s, show=show)]
    trials = [*trials_of(pool, measured, rows, encoder, alone)]
    reference = None if data.qrels else largest(measured)
    qrels = data.qrels if reference is None else taken_for_right(pool, reference, rows)
    values = np.array([per_query(qrels, one.ranked, [measure])[measure] for one in trials])
    spread = [np.outer(one.seconds, one.ratios).ravel() for one in trials]
    typical, slow = np.array([np.percentile(one, [50, 95]) for one in spread]).T
    efficient = set(frontier(values.mean(axis=1), typical))
    decision = decide(
        values,
        typical,
        slow,
        budget_ms / 1_000,
        quality=quality,
        labelled=reference is None,
        seed=seed,
    )
    options = tuple(
        Option(
            one.recipe,
            bootstrapped_mean(values[number], seed),
            float(typical[number] * 1_000),
            float(slow[number] * 1_000),
            efficient=number in efficient,
        )
        for number, one in enumerate(trials)
    )
    return Plan(
        options,
        decision,
        measure,
        budget_ms,
        quality,
        len(data.passages),
        len(rows),
        None if reference is None else str(reference.setup),
        skipped,
        perf_counter() - start,
        environment(),
    )


def _sample(data: RetrievalSet, most: int, seed: int) -> RetrievalSet:
    names = list(data.queries)
    chosen = np.random.default_rng(seed).permutation(len(names))[:most]
    kept = {names[at]: data.queries[names[at]] for at in sorted(chosen.tolist())}
    return RetrievalSet(data.passages, kept, data.qrels, data.originals)
