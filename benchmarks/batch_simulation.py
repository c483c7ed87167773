"""A million pairs by the cost model: how a batch spreads over actors.

What is real: the seconds a batch of tokens takes, learned from batches run here, and the
tokens of the pairs. What is assumed: every actor is as fast as this machine with its threads,
none fails, reading and writing cost nothing, and all actors start at once.
"""

from __future__ import annotations

import heapq
import random
from time import perf_counter
from typing import Any, Final

from benchmarks.environment import environment
from rerank_plugins import Reranker
from rerank_plugins.batch.job import BatchSettings
from rerank_plugins.engine.batch_planner import CostModel

PAIRS: Final = 1_000_000
ACTORS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
LIST: Final = 100
LONG: Final = 100_000
"""Length of one list among the others, to show what splitting it is worth."""

_SEED: Final = 11
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64)
_ROUNDS: Final = 5


def measure_simulated(queries: list[str], texts: list[str]) -> dict[str, Any]:
    """Learn the cost of a batch, then schedule a million pairs over 1 to 128 actors."""
    choose = random.Random(_SEED)  # noqa: S311  (no secret)
    reranker = Reranker()
    reranker.close()  # whoever used it before
    started = perf_counter()
    reranker.warm_up()
    start_s = perf_counter() - started
    model, tokens_a_pair = _learned(reranker, queries, texts, choose)
    budget = reranker.engine.backend.batch_tokens
    most = BatchSettings().max_documents

    def seconds(documents: int) -> float:
        tokens = documents * tokens_a_pair
        full, rest = divmod(tokens, budget)
        return full * model.seconds(budget) + (model.seconds(rest) if rest else 0.0)

    lists = [LONG] + [LIST] * ((PAIRS - LONG) // LIST)
    whole = [seconds(documents) for documents in _units(lists, most, split=False)]
    split = [seconds(documents) for documents in _units(lists, most, split=True)]
    return {
        "pairs": sum(lists),
        "long_list": LONG,
        "max_documents": most,
        "units": len(split),
        "tokens_a_pair": tokens_a_pair,
        "batch_tokens": budget,
        "overhead_s": model.overhead_s,
        "per_token_s": model.per_token_s,
        "relative_error": model.deviation,
        "start_s": start_s,
        "actors": {
            str(actors): {
                "seconds": start_s + makespan(split, actors),
                "seconds_unsplit": start_s + makespan(whole, actors),
                "efficiency": sum(split) / actors / (start_s + makespan(split, actors)),
            }
            for actors in ACTORS
        },
        "environment": environment(),
    }


def makespan(units: list[float], actors: int) -> float:
    """Return when the last unit ends if a free actor always takes the next one."""
    free = [0.0] * actors
    for seconds in units:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def _units(lists: list[int], most: int, *, split: bool) -> list[int]:
    units, open_unit = [], 0
    for documents in lists:
        if open_unit and open_unit + documents > most:
            units.append(open_unit)
            open_unit = 0
        if documents > most:
            parts = -(-documents // most) if split else 1
            units += [documents // parts] * parts
        else:
            open_unit += documents
    return [*units, open_unit] if open_unit else units


def _learned(
    reranker: Reranker, queries: list[str], texts: list[str], choose: random.Random
) -> tuple[CostModel, float]:
    """Return the cost model after batches of several sizes, and the mean tokens of a pair."""
    model = CostModel()
    pairs = tokens = 0
    for size in _SIZES * _ROUNDS:
        batch = [(choose.choice(queries), text) for text in choose.sample(texts, size)]
        before = reranker.engine.stats()
        reranker.score(batch)
        after = reranker.engine.stats()
        cost = after.padded_tokens - before.padded_tokens
        model.learn(cost, after.compute_s - before.compute_s)
        pairs, tokens = pairs + size, tokens + cost
    return model, tokens / pairs
