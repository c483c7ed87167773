"""Figures of the packaged weights: they are those of the model card.

The environment variable ``DATA`` names the folder of the retrieval sets:
``make test-slow DATA=folder``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from rerank_plugins import Reranker
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.evaluation.datasets import read_beir
from training.evaluate import MEASURES, QuestionSample, systems_of
from training.model_card import FILE_NAME

VASWANI = Path(os.environ.get("DATA", "")) / "vaswani"
SYSTEM = "mini over the bi-encoder's best 50"


def figures_of_the_card() -> list[float]:
    """Return nDCG@10 and MRR@10 on vaswani, the last column of the table."""
    card = (cross_encoder_folder() / FILE_NAME).read_text(encoding="utf-8").replace("`", "")
    (row,) = re.findall(rf"^\| {SYSTEM} \| \d.*$", card, re.MULTILINE)
    return [float(figure) for figure in re.findall(r"([\d.]+) \(", row.split("|")[-2])]


def test_the_card_has_both_figures() -> None:
    assert len(figures_of_the_card()) == len(MEASURES)


@pytest.mark.slow
@pytest.mark.skipif(not VASWANI.is_dir(), reason="DATA has no retrieval set vaswani")
def test_the_packaged_weights_have_the_figures_of_their_card(tmp_path: Path) -> None:
    questions = QuestionSample(read_beir(VASWANI), 0, tmp_path)
    scores = {"mini": questions.scores(Reranker(), quick=True)}
    metrics = questions.metrics(systems_of(["mini"], quick=True)[SYSTEM], scores)
    figures = [metrics[measure].mean() for measure in MEASURES]
    # The card's are of bfloat16, which moves a mean of 93 questions a little.
    assert figures == pytest.approx(figures_of_the_card(), abs=0.01)
