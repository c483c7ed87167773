"""Golden scores of ``mini``, and the distance of every configuration from them.

sentence-transformers scores pairs of SQuAD, from the set that ships with the package, in float32;
``tests/data/golden.json`` holds these scores, with digests of the texts and of the weights.
Run ``python -m benchmarks robustness DATA --suites golden`` when the weights of ``mini`` change.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.metadata import version
from itertools import groupby
from typing import Any, Final, NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.common import BUNDLED, ROOT, Row, make_rows
from benchmarks.servers import ours
from rerank_plugins import RemoteSpec, Reranker
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation import RetrievalSet, read_beir
from rerank_plugins.types import FloatArray

FILE: Final = ROOT / "tests" / "data" / "golden.json"
COMMAND: Final = "python -m benchmarks robustness DATA --suites golden"

_QUERIES: Final = 20
_PASSAGES: Final = 10
_SAME_ARTICLE: Final = 6
"""Passages from the article of the relevant one, which are hard to distinguish from it."""

Logits = NDArray[np.floating[Any]]
Score = Callable[[Sequence[tuple[str, str]]], Logits]


class Golden(NamedTuple):
    """The golden scores.

    Attributes:
        pairs: Query and passage of each.
        groups: Number of the query of each, shape ``(len(pairs),)``.
        scores: Logits, shape ``(len(pairs),)``.
    """

    pairs: list[tuple[str, str]]
    groups: np.ndarray[Any, np.dtype[np.int64]]
    scores: FloatArray


def write_golden() -> None:
    """Score the pairs with sentence-transformers in float32, and write the file."""
    from tests.helpers.families import sentence_transformers_scores  # noqa: PLC0415  (needs pytest)

    data = read_beir(BUNDLED)
    chosen = _choose_passages(data)
    pairs = _pairs(data, chosen)
    scores = iter(sentence_transformers_scores(cross_encoder_folder(), pairs).tolist())
    questions = [
        {"query": query, "scores": {passage: round(next(scores), 6) for passage in passages}}
        for query, passages in chosen.items()
    ]
    about = {
        "made_by": COMMAND,
        "model": "mini",
        "weights": _weights_digest(),
        "texts": _digest(repr(pairs).encode()),
        "reference": "CrossEncoder.predict, activation Identity, float32, CPU",
        "packages": {name: version(name) for name in ("sentence-transformers", "torch")},
    }
    FILE.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(question)}" for question in questions)
    head = json.dumps(about, indent=1).removesuffix("\n}")
    FILE.write_text(f'{head},\n "questions": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def read_golden() -> Golden:
    """Return the golden scores.

    Raises:
        RuntimeError: If they belong to other weights or other texts.
    """
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    chosen = {question["query"]: list(question["scores"]) for question in stored["questions"]}
    data = read_beir(BUNDLED)
    pairs = _pairs(data, chosen) if chosen.keys() <= data.queries.keys() else []
    if stored["weights"] != _weights_digest() or stored["texts"] != _digest(repr(pairs).encode()):
        message = f"{FILE} belongs to other weights or texts of mini; run {COMMAND}"
        raise RuntimeError(message)
    scores = [score for question in stored["questions"] for score in question["scores"].values()]
    return Golden(
        pairs,
        np.repeat(np.arange(len(chosen)), [len(passages) for passages in chosen.values()]),
        np.array(scores, dtype=np.float32),
    )


def _choose_passages(data: RetrievalSet) -> dict[str, list[str]]:
    """Return passages per query: the relevant one, more of its article, and others."""
    rng = random.Random(0)  # noqa: S311  (no secret)
    chosen = {}
    for query in rng.sample(sorted(data.queries), _QUERIES):
        relevant = min(data.qrels[query])
        title = data.by_id[relevant].title
        others = [passage for passage in data.by_id if passage != relevant]
        near = [passage for passage in others if data.by_id[passage].title == title]
        passages = [relevant, *rng.sample(near, min(_SAME_ARTICLE, len(near)))]
        far = [passage for passage in others if data.by_id[passage].title != title]
        passages += rng.sample(far, _PASSAGES - len(passages))
        chosen[query] = rng.sample(passages, len(passages))
    return chosen


def _pairs(data: RetrievalSet, chosen: dict[str, list[str]]) -> list[tuple[str, str]]:
    texts = {passage.id: passage.content for passage in data.passages}
    return [
        (data.queries[query], texts.get(passage, ""))
        for query, passages in chosen.items()
        for passage in passages
    ]


def _weights_digest() -> str:
    return _digest((cross_encoder_folder() / "model.safetensors").read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Configuration(NamedTuple):
    """A configuration that computes the scores.

    Attributes:
        open_scorer: Returns a context manager of a function that scores pairs.
        difference: Bound of the difference of a logit to the golden one.
        tau: Lower bound of the mean of Kendall's tau over the queries.
    """

    open_scorer: Callable[[], AbstractContextManager[Score]]
    difference: float
    tau: float


@contextmanager
def _local(**settings: Any) -> Iterator[Score]:  # noqa: ANN401  (settings of a reranker)
    with Reranker(activation="none", **settings) as reranker:
        yield reranker.score


@contextmanager
def _over_http() -> Iterator[Score]:
    """Send one request per query to the server, for logits by index."""
    with ours("--dtype", "float32") as server, httpx.Client(base_url=server.url) as http:

        def score(pairs: Sequence[tuple[str, str]]) -> Logits:
            scores: list[float] = []
            for query, group in groupby(pairs, key=lambda pair: pair[0]):
                body = {"query": query, "texts": [text for _, text in group], "raw_scores": True}
                ranks = http.post("/rerank", json=body, timeout=60).raise_for_status().json()
                ranks.sort(key=lambda rank: rank["index"])
                scores += [rank["score"] for rank in ranks]
            return np.array(scores, dtype=np.float32)

        yield score


@contextmanager
def _remote() -> Iterator[Score]:
    """Score through a remote model."""
    with (
        ours("--dtype", "float32") as server,
        Reranker(RemoteSpec(server.url, api="rerank-plugins"), activation="none") as reranker,
    ):
        yield reranker.score


def _configuration(backend: str, dtype: str, difference: float, tau: float) -> Configuration:
    return Configuration(partial(_local, backend=backend, dtype=dtype), difference, tau)


CONFIGURATIONS: Final = {
    "torch, float32": _configuration("torch", "float32", 5e-5, 0.999),
    "torch, bfloat16": _configuration("torch", "bfloat16", 0.15, 0.97),
    "torch, float16": _configuration("torch", "float16", 0.03, 0.99),
    "sbert, float32": _configuration("sbert", "float32", 5e-5, 0.999),
    "openvino, float32": _configuration("openvino", "float32", 5e-5, 0.999),
    "openvino, bfloat16": _configuration("openvino", "bfloat16", 0.15, 0.97),
    "openvino, int8": _configuration("openvino", "int8", 1.0, 0.9),
    "server over HTTP, float32": Configuration(_over_http, 5e-5, 0.999),
    "RemoteSpec, float32": Configuration(_remote, 5e-5, 0.999),
}


def compare(scores: Logits, golden: Golden) -> dict[str, float]:
    """Return how far scores are from the golden ones.

    Returns:
        Largest and mean absolute difference of logits; mean and smallest Kendall's tau (tau-b,
        Kendall, 1945) of a query's passages; queries with another first passage.
    """
    differences = np.abs(scores - golden.scores)
    taus, other_first = [], 0
    for group in range(int(golden.groups.max()) + 1):
        actual, expected = (values[golden.groups == group] for values in (scores, golden.scores))
        taus.append(float(kendalltau(actual, expected).statistic))
        other_first += int(np.argmax(actual) != np.argmax(expected))
    return {
        "largest_difference": float(differences.max()),
        "mean_difference": float(differences.mean()),
        "kendall_tau": float(np.mean(taus)),
        "min_kendall_tau": min(taus),
        "other_first": other_first,
    }


def measure_golden() -> Iterator[list[Row]]:
    """Write the golden scores, and yield how far every configuration is from them.

    A configuration that this machine refuses is left out.
    """
    write_golden()
    golden = read_golden()
    dataset = f"{len(golden.pairs)} pairs of {int(golden.groups.max()) + 1} questions"
    logits = {
        "lowest_logit": float(golden.scores.min()),
        "highest_logit": float(golden.scores.max()),
    }
    yield make_rows("golden", "", dataset, logits)
    for name, configuration in CONFIGURATIONS.items():
        try:
            with configuration.open_scorer() as score:
                metrics = compare(score(golden.pairs), golden)
        except ConfigurationError:
            continue
        metrics["allowed_difference"] = configuration.difference
        metrics["allowed_tau"] = configuration.tau
        yield make_rows("golden", name, dataset, metrics)
