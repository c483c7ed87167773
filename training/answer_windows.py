"""Windows that answer a question: the training groups name only the passage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.types import FloatArray
from training.corpus import Chunks, Question

_TEMPERATURE: Final = 0.05


def answer_windows(
    questions: Sequence[Question],
    windows: Chunks,
    vectors: FloatArray,
    encoder: BiEncoder,
    reader: Reranker | None,
) -> list[int]:
    """Return the window that most likely answers each question.

    The sum of two probabilities decides: the cross-encoder's, which was trained on windows
    around known answers, and the bi-encoder's.

    Args:
        questions: The questions.
        windows: Windows of all passages.
        vectors: Vectors of the windows.
        encoder: The bi-encoder.
        reader: The cross-encoder; with None the bi-encoder decides.
    """
    choices = [
        [window for passage in question.positives for window in windows.of(passage)]
        for question in questions
    ]
    answers = [rows[0] for rows in choices]
    ambiguous = [row for row, choice in enumerate(choices) if len(choice) > 1]
    if not ambiguous:
        return answers
    queries = encoder.encode_query([questions[row].text for row in ambiguous])
    probabilities = [
        _softmax(vectors[choices[row]] @ query / _TEMPERATURE)
        for row, query in zip(ambiguous, queries, strict=True)
    ]
    if reader is not None:
        rankings = reader.rank_many(
            (questions[row].text, [windows.texts[window] for window in choices[row]])
            for row in ambiguous
        )
        for total, ranking in zip(probabilities, rankings, strict=True):
            order = [document.index for document in ranking]
            total[order] += _softmax(np.array([document.raw_score for document in ranking]))
    for row, total in zip(ambiguous, probabilities, strict=True):
        answers[row] = choices[row][int(np.argmax(total))]
    return answers


def _softmax(scores: NDArray[np.float64] | FloatArray) -> NDArray[np.float64]:
    powers = np.exp(np.asarray(scores, dtype=np.float64) - scores.max())
    result: NDArray[np.float64] = powers / powers.sum()
    return result
