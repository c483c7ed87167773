"""Which window of a passage answers a question: the groups do not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.core.protocols import FloatArray
from training.prepared import Parts, Question

_TEMPERATURE: Final = 0.05


def answering(
    questions: Sequence[Question],
    windows: Parts,
    vectors: FloatArray,
    encoder: BiEncoder,
    reader: Reranker | None,
) -> list[int]:
    """Return the window that most likely answers each question.

    The cross-encoder, which was trained on windows round known answers, and the bi-encoder
    have half a say each.

    Args:
        questions: What is asked.
        windows: Of all passages.
        vectors: Of the windows.
        encoder: The bi-encoder.
        reader: The cross-encoder; None leaves it to the bi-encoder.
    """
    own = [[at for one in asked.positives for at in windows.of(one)] for asked in questions]
    several = [row for row, some in enumerate(own) if len(some) > 1]
    answers = [some[0] for some in own]
    if not several:
        return answers
    asked = encoder.encode_queries([questions[row].text for row in several])
    said = [
        _shares(vectors[own[row]] @ one / _TEMPERATURE)
        for row, one in zip(several, asked, strict=True)
    ]
    if reader is not None:
        rankings = reader.rank_many(
            (questions[row].text, [windows.texts[at] for at in own[row]]) for row in several
        )
        for shares, ranking in zip(said, rankings, strict=True):
            places = [document.index for document in ranking]
            shares[places] += _shares(np.array([document.raw_score for document in ranking]))
    for row, shares in zip(several, said, strict=True):
        answers[row] = own[row][int(np.argmax(shares))]
    return answers


def _shares(scores: NDArray[np.float64] | FloatArray) -> NDArray[np.float64]:
    shares = np.exp(np.asarray(scores, dtype=np.float64) - scores.max())
    result: NDArray[np.float64] = shares / shares.sum()
    return result
