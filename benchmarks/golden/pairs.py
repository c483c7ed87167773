"""The pairs, and what sentence-transformers scores them: ``tests/data/golden.json``.

The texts are paragraphs and questions of SQuAD, from the set that ships with the package; the
file names them and holds digests of them and of the weights.
"""

from __future__ import annotations

import hashlib
import json
import random
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.environment import BUNDLED, ROOT
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.evaluation.datasets import RetrievalSet, read_beir
from rerank_plugins.types import FloatArray
from tests.helpers.families import sentence_transformers_scores

FILE: Final = ROOT / "tests" / "data" / "golden.json"
COMMAND: Final = "python -m benchmarks.golden"

_QUESTIONS: Final = 20
_PASSAGES: Final = 10
_SAME_ARTICLE: Final = 6
"""Passages beside the one that answers that are from its article: hard to tell from it."""


class Golden(NamedTuple):
    """What the reference says.

    Attributes:
        pairs: Question and passage of each.
        groups: Number of the question of each, shape ``(len(pairs),)``.
        scores: Logits, shape ``(len(pairs),)``.
    """

    pairs: list[tuple[str, str]]
    groups: np.ndarray[Any, np.dtype[np.int64]]
    scores: FloatArray


def make() -> None:
    """Have sentence-transformers score the pairs in float32, and write the file."""
    data = read_beir(BUNDLED)
    chosen = _choose(data)
    pairs = _texts(data, chosen)
    scores = sentence_transformers_scores(cross_encoder_folder(), pairs)
    rows = iter(scores.tolist())
    questions = [
        {"query": query, "scores": {passage: round(next(rows), 6) for passage in passages}}
        for query, passages in chosen.items()
    ]
    about = {
        "made_by": COMMAND,
        "model": "mini",
        "weights": _weights(),
        "texts": _digest(repr(pairs).encode()),
        "reference": "CrossEncoder.predict, activation Identity, float32, CPU",
        "packages": {name: version(name) for name in ("sentence-transformers", "torch")},
    }
    FILE.parent.mkdir(exist_ok=True)
    lines = ",\n".join(f"  {json.dumps(question)}" for question in questions)
    head = json.dumps(about, indent=1).removesuffix("\n}")
    FILE.write_text(f'{head},\n "questions": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def read() -> Golden:
    """Return the golden scores.

    Raises:
        RuntimeError: If they are those of other weights or other texts.
    """
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    chosen = {one["query"]: list(one["scores"]) for one in kept["questions"]}
    data = read_beir(BUNDLED)
    known = chosen.keys() <= data.queries.keys()
    pairs = _texts(data, chosen) if known else []
    if kept["weights"] != _weights() or kept["texts"] != _digest(repr(pairs).encode()):
        message = f"{FILE} is of other weights or texts of mini; make it anew: {COMMAND}"
        raise RuntimeError(message)
    scores = [score for one in kept["questions"] for score in one["scores"].values()]
    return Golden(
        pairs,
        np.repeat(np.arange(len(chosen)), [len(passages) for passages in chosen.values()]),
        np.array(scores, dtype=np.float32),
    )


def _choose(data: RetrievalSet) -> dict[str, list[str]]:
    """Return passages for each question: what answers it, more of its article, and others."""
    rng = random.Random(0)  # noqa: S311  (which texts)
    chosen = {}
    for query in rng.sample(sorted(data.queries), _QUESTIONS):
        answer = min(data.qrels[query])
        title = data.by_id[answer].title
        others = [one for one in data.by_id if one != answer]
        near = [one for one in others if data.by_id[one].title == title]
        passages = [answer, *rng.sample(near, min(_SAME_ARTICLE, len(near)))]
        far = [one for one in others if data.by_id[one].title != title]
        passages += rng.sample(far, _PASSAGES - len(passages))
        chosen[query] = rng.sample(passages, len(passages))
    return chosen


def _texts(data: RetrievalSet, chosen: dict[str, list[str]]) -> list[tuple[str, str]]:
    texts = {one.id: one.content for one in data.passages}
    return [
        (data.queries[query], texts.get(passage, ""))
        for query, passages in chosen.items()
        for passage in passages
    ]


def _weights() -> str:
    return _digest((cross_encoder_folder() / "model.safetensors").read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
