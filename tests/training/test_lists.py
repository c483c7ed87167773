"""What the lists hold: from relevant to random, and nothing of the validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.errors import InvalidInputError
from tests.training.conftest import LISTS, small
from training.asking import ask_again
from training.candidates import drawn
from training.mine import Miner
from training.packed import KINDS, Packed
from training.prepared import Prepared
from training.searching import Space
from training.writing import plain_tokenizer


def texts(packed: Packed, numbers: np.ndarray) -> list[str]:
    tokenizer = plain_tokenizer()
    return [tokenizer.decode(packed.text(int(at)).tolist()) for at in np.unique(numbers)]


def test_every_kind_is_there_as_often_as_it_was_asked_for(packed: Packed) -> None:
    counts = np.bincount(packed.kinds[~packed.held_out], minlength=len(KINDS)).tolist()
    found = dict(zip(KINDS, counts, strict=True))
    # Few sentences: one question has not eight candidates.
    assert 4 <= found.pop("sentence") <= 2 * LISTS["sentence"]
    assert found == {kind: 2 * count for kind, count in LISTS.items() if kind != "sentence"}
    assert set(packed.kinds[packed.held_out]) == {KINDS.index("window"), KINDS.index("faq")}
    assert packed.held_out.sum() == 8


def test_the_first_candidate_alone_is_relevant_and_none_comes_twice(packed: Packed) -> None:
    labelled = np.isin(
        packed.kinds, [KINDS.index(one) for one in ("window", "passage", "paragraph")]
    )
    assert (packed.labels[labelled].sum(1) == 1).all()
    assert packed.labels[labelled, 0].all()
    assert not packed.labels[~labelled].any()
    assert all(len(set(row)) == packed.documents.shape[1] for row in packed.documents.tolist())


def test_candidates_run_from_near_to_far(packed: Packed) -> None:
    cosines = packed.cosines.astype(float)
    assert cosines[:, 0].mean() > cosines[:, 1].mean() > cosines[:, -1].mean() + 0.1


def test_no_passage_of_the_validation_is_trained_on(packed: Packed, prepared: Prepared) -> None:
    own = ~packed.held_out
    seen = texts(packed, packed.documents[own]) + texts(packed, packed.queries[own])
    joined = "\n".join(seen)
    tokenizer = plain_tokenizer()
    for at in np.flatnonzero(prepared.held_out).tolist():
        for window in prepared.windows.of(at):
            ids = tokenizer.encode(prepared.windows.texts[window], add_special_tokens=False).ids
            assert tokenizer.decode(ids[5:30]) not in joined
    for question in prepared.validation:
        ids = tokenizer.encode(question.text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) not in seen


@pytest.mark.parametrize(("unseen", "own"), [(0.0, 20), (1.0, 0)])
def test_a_question_asked_again_may_have_to_do_without_itself(
    prepared: Prepared, unseen: float, own: int
) -> None:
    questions = prepared.questions[:20]
    rng = np.random.default_rng(1)
    asked = ask_again(questions, rng, 5, unseen=unseen, held_out=False)
    texts = [f"{number} {question.text}" for number, question in enumerate(questions)]
    places = np.arange(5 + len(texts))
    vectors = np.eye(len(places), dtype=np.float32)
    space = Space(["a", "b", "c", "d", "e", *texts], places, vectors, places >= 0)
    found = [
        drawn(one, space, places, places[::-1], settings=small().mine, rng=rng) for one in asked
    ]
    assert sum(at in row for at, row in enumerate(found, 5)) == own
    assert {len(row) for row in found} == {8}


@pytest.mark.slow
def test_mining_again_makes_the_same_lists(packed: Packed, prepared: Prepared) -> None:
    again = Miner(prepared, small(), BiEncoder(), Reranker()).packed()
    for name, values in vars(packed).items():
        assert np.array_equal(values, getattr(again, name)), name


def test_packed_lists_are_read_as_they_were_written(packed: Packed, lists: Path) -> None:
    again = Packed.load(lists)
    assert all(np.array_equal(one, getattr(again, name)) for name, one in vars(packed).items())
    with pytest.raises(InvalidInputError, match="run the step mine"):
        Packed.load(lists / "elsewhere")
