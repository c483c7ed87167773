"""The weights that are packaged are those that their card tells of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.environment import ROOT
from rerank_plugins import Reranker
from rerank_plugins.backends._mini import cross_encoder_folder
from rerank_plugins.evaluation.beir import read_beir
from training.card import CARD
from training.evaluate import MEASURES, Questions, systems_of

VASWANI = ROOT.parent / "shared" / "data" / "vaswani"
SYSTEM = "mini over the bi-encoder's best 50"


def figures_of_the_card() -> list[float]:
    """Return nDCG@10 and MRR@10 on vaswani, the last column of the table."""
    card = (cross_encoder_folder() / CARD).read_text(encoding="utf-8").replace("`", "")
    (row,) = re.findall(rf"^\| {SYSTEM} \| \d.*$", card, re.MULTILINE)
    return [float(one) for one in re.findall(r"([\d.]+) \(", row.split("|")[-2])]


@pytest.mark.slow
@pytest.mark.skipif(not VASWANI.is_dir(), reason="the retrieval sets are not here")
def test_the_packaged_weights_have_the_figures_of_their_card(tmp_path: Path) -> None:
    questions = Questions(read_beir(VASWANI), 0, tmp_path)
    scores = {"mini": questions.scored(Reranker(), quick=True)}
    found = questions.measured(systems_of(["mini"], quick=True)[SYSTEM], scores)
    # The card's are of bfloat16, which moves a mean of 93 questions a little.
    assert [found[one].mean() for one in MEASURES] == pytest.approx(figures_of_the_card(), abs=0.01)
