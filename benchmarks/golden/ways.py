"""The ways in which ``mini`` is computed, and how far each may be from the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import groupby
from typing import Any, Final, NamedTuple

import httpx
import numpy as np
from scipy.stats import kendalltau

from benchmarks.golden.pairs import Golden
from benchmarks.serving.process import ours
from rerank_plugins import RemoteModel, Reranker
from rerank_plugins.types import FloatArray

Score = Callable[[Sequence[tuple[str, str]]], FloatArray]


class Way(NamedTuple):
    """One way.

    Attributes:
        opened: Gives what scores pairs.
        difference: How far a logit may be from the reference's.
        tau: The least mean of Kendall's tau over the questions.
    """

    opened: Callable[[], AbstractContextManager[Score]]
    difference: float
    tau: float


@contextmanager
def _local(**settings: Any) -> Iterator[Score]:  # noqa: ANN401  (settings of a reranker)
    with Reranker(**settings) as reranker:
        yield reranker.score


@contextmanager
def _over_http() -> Iterator[Score]:
    """Ask the server of the command line, a request a question, for logits by index."""
    with ours("--dtype", "float32") as server, httpx.Client(base_url=server.url) as http:

        def score(pairs: Sequence[tuple[str, str]]) -> FloatArray:
            scores: list[float] = []
            for query, group in groupby(pairs, key=lambda pair: pair[0]):
                body = {"query": query, "texts": [text for _, text in group], "raw_scores": True}
                ranks = http.post("/rerank", json=body, timeout=60).raise_for_status().json()
                scores += [one["score"] for one in sorted(ranks, key=lambda one: one["index"])]
            return np.array(scores, dtype=np.float32)

        yield score


@contextmanager
def _remotely() -> Iterator[Score]:
    """Ask it through a remote model."""
    with (
        ours("--dtype", "float32") as server,
        Reranker(RemoteModel(server.url, api="rerank-plugins")) as reranker,
    ):
        yield reranker.score


def _computed(backend: str, dtype: str, difference: float, tau: float) -> Way:
    return Way(partial(_local, backend=backend, dtype=dtype), difference, tau)


WAYS: Final = {
    "torch, float32": _computed("torch", "float32", 5e-5, 0.999),
    "torch, bfloat16": _computed("torch", "bfloat16", 0.15, 0.97),
    "torch, float16": _computed("torch", "float16", 0.03, 0.99),
    "sbert, float32": _computed("sbert", "float32", 5e-5, 0.999),
    "openvino, float32": _computed("openvino", "float32", 5e-5, 0.999),
    "openvino, bfloat16": _computed("openvino", "bfloat16", 0.15, 0.97),
    "openvino, int8": _computed("openvino", "int8", 1.0, 0.9),
    "server over HTTP, float32": Way(_over_http, 5e-5, 0.999),
    "RemoteModel, float32": Way(_remotely, 5e-5, 0.999),
}


def compare(scores: FloatArray, golden: Golden) -> dict[str, Any]:
    """Return how far scores are from the golden ones.

    Returns:
        Largest and mean absolute difference of logits; mean and least Kendall's tau (tau-b,
        Kendall, 1945) of a question's passages; questions whose first passage is another.
    """
    away = np.abs(scores - golden.scores)
    taus, other_first = [], 0
    for group in range(int(golden.groups.max()) + 1):
        made, wanted = (one[golden.groups == group] for one in (scores, golden.scores))
        taus.append(float(kendalltau(made, wanted).statistic))
        other_first += int(np.argmax(made) != np.argmax(wanted))
    return {
        "largest_difference": float(away.max()),
        "mean_difference": float(away.mean()),
        "kendall_tau": float(np.mean(taus)),
        "least_kendall_tau": min(taus),
        "other_first": other_first,
    }
