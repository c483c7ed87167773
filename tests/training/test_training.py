"""Scores and gradients as transformers has them; runs that stop and go on; what is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rerank_plugins import Reranker
from rerank_plugins.errors import InvalidInputError
from tests.training.conftest import small
from training.computing import Computer
from training.export import export
from training.feeding import Feeder
from training.network import _packed, _padded, scored, trained
from training.objective import listwise
from training.packed import Packed
from training.state import State
from training.train import Training, start_model

Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def threads() -> Any:
    """Give other tests the threads back that training takes one by one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def training(lists: Path, folder: Path) -> Training:
    return Training(lists, folder, small(validate_every=2), start_model())


def test_scores_and_gradients_are_those_of_transformers(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.network.fast_bfloat16_on_cpu", lambda: False)
    model = start_model()
    weights = trained(model)
    pairs = Feeder(packed, 0, 2, 1, 64).pairs([0, 40])
    scores = scored(model, pairs)
    own = torch.autograd.grad(scores.sum(), list(weights.values()))
    wanted = torch.stack(
        [
            model(
                torch.tensor(one.ids[None].astype(np.int64)),
                token_type_ids=torch.tensor(one.types[None].astype(np.int64)),
            ).logits[0, 0]
            for one in pairs
        ]
    )
    assert torch.allclose(scores, wanted, atol=1e-4)
    for name, found, exact in zip(
        weights, own, torch.autograd.grad(wanted.sum(), list(weights.values())), strict=True
    ):
        # The bias of keys has no gradient but for rounding.
        allowed = 1e-3 * float(exact.abs().max()) + 1e-6
        assert float((found - exact).abs().max()) < allowed, name


def test_half_precision_changes_scores_little(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = start_model()
    pairs = Feeder(packed, 0, 2, 1, 64).pairs([0])
    found = []
    for quick in (False, True):
        monkeypatch.setattr("training.network.fast_bfloat16_on_cpu", lambda: quick)  # noqa: B023
        with torch.no_grad():
            found.append(scored(model, pairs))
    assert 0 < float((found[0] - found[1]).abs().max()) < 0.3


def test_the_padded_way_scores_the_same(packed: Packed) -> None:
    model = start_model()
    pairs = sorted(Feeder(packed, 0, 2, 1, 64).pairs([0]), key=lambda one: len(one.ids))
    with torch.no_grad():
        assert torch.allclose(_padded(model, pairs), _packed(model, pairs), atol=1e-4)


def test_the_loss_of_a_list_by_hand() -> None:
    settings = small(temperature=0.5, label_share=0.5, pointwise=0.1).train
    scores, cosines = torch.tensor([[2.0, -1.0]] * 2), torch.tensor([[0.5, 0.0]] * 2)
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    soft = np.e / (np.e + 1)
    log = -np.log1p(np.exp(-3)), -3 - np.log1p(np.exp(-3))
    teacher = -(soft * log[0] + (1 - soft) * log[1])
    target = 0.5 + 0.5 * soft
    point = (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2
    mixed = -(target * log[0] + (1 - target) * log[1]) + 0.1 * point
    assert listwise(scores, labels, cosines, settings).tolist() == pytest.approx([mixed, teacher])


def test_a_list_is_compared_again_without_its_best() -> None:
    scores, cosines = torch.tensor([[0.3, 2.0, -1.0, 0.1]]), torch.tensor([[0.1, 0.4, 0.9, 0.2]])
    labels = torch.zeros(1, 4)
    plain = small(again_without=0).train

    def loss(*left: int) -> float:
        own = list(left)
        return float(listwise(scores[:, own], labels[:, own], cosines[:, own], plain))

    by_hand = loss(0, 1, 2, 3) + 0.5 * (loss(0, 1, 3) + loss(0, 3))
    settings = small(again=0.5, again_without=3).train
    found = float(listwise(scores, labels, cosines, settings))
    assert found == pytest.approx(by_hand), "of one candidate there is no order"


def test_an_epoch_has_every_list_once_and_the_next_another_order(packed: Packed) -> None:
    feeder = Feeder(packed, 3, 4, 2, 128)
    epochs = [
        [tuple(np.concatenate(feeder.step(at + start))) for at in range(feeder.steps)]
        for start in (0, feeder.steps)
    ]
    flat = [[int(one) for step in epoch for one in step] for epoch in epochs]
    assert len(set(flat[0])) == len(flat[0]) == len(feeder) // 4 * 4
    assert set(flat[0]).isdisjoint(np.flatnonzero(packed.held_out).tolist())
    assert flat[0] != flat[1]
    assert all(len(one.ids) <= 128 for one in feeder.pairs(range(len(packed))))


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_one_that_was_not(lists: Path, tmp_path: Path) -> None:
    through = training(lists, tmp_path / "through")
    before = through.state.averaged()["classifier.weight"].clone()
    through.run(3)
    training(lists, tmp_path / "parts").run(2)
    resumed = training(lists, tmp_path / "parts")
    assert resumed.state.steps == 2
    resumed.run(3)
    assert all(
        torch.equal(one, resumed.state.weights[name]) for name, one in through.state.weights.items()
    )
    wanted = resumed.state.averaged()
    assert all(torch.equal(one, wanted[name]) for name, one in through.state.averaged().items())
    assert not torch.equal(wanted["classifier.weight"], before)
    logs = sorted((tmp_path / "parts" / "runs").glob("*.json"))
    assert [json.loads(one.read_text())["resumed_at"] for one in logs] == [0, 2]
    validation = json.loads(logs[0].read_text())["validation"]
    assert [one["step"] for one in validation] == [0, 2]
    assert 0.5 < validation[0]["all"]["nDCG@10"] <= 1


def test_threads_do_not_change_the_gradient(packed: Packed) -> None:
    settings = small().train
    model = start_model()
    weights = list(trained(model).values())
    feeder = Feeder(packed, 0, 2, 1, 64)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        computer = Computer(model, packed, feeder, settings)
        torch.set_num_threads(1)
        found.append(computer.step(feeder.step(0), weights))
        computer.close()
    assert all(map(torch.equal, found[0].gradients, found[1].gradients))
    assert (
        found[0].tokens
        == found[1].tokens
        == sum(len(one.ids) for batch in feeder.step(0) for one in feeder.pairs(batch))
    )


def test_steps_on_the_same_lists_learn_them(packed: Packed) -> None:
    settings = small(learning_rate=2e-4).train
    state = State(start_model(), settings)
    feeder = Feeder(packed, 0, 2, 1, 64)
    computer = Computer(state.model, packed, feeder, settings)
    losses = []
    for _ in range(5):
        done = computer.step(feeder.step(0), list(state.weights.values()))
        losses.append(float(done.losses.mean()))
        state.learn(done.gradients)
    computer.close()
    assert losses[-1] < losses[0] - 0.02


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").write_bytes(b"nothing")
    state = State(start_model(), small().train)
    with pytest.raises(InvalidInputError, match="no checkpoint"):
        state.load(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_first_weights_comes_back(share: float) -> None:
    state = State(start_model(), small().train)
    first = [one.clone() for one in state.average]
    for average in state.average:
        average.add_(1)
    state.mix_in_start(share)
    for average, begun in zip(state.average, first, strict=True):
        assert torch.allclose(average, begun + (1 - share), atol=1e-6)


def test_what_is_exported_loads_everywhere_and_scores_the_same(tmp_path: Path) -> None:
    state = State(start_model(), small().train)
    rng = torch.Generator().manual_seed(0)
    for average in state.average:
        average.add_(torch.randn(average.shape, generator=rng), alpha=0.01)
    export(state, tmp_path)
    pair = ("who wrote faust", "Goethe wrote Faust.")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    batch = AutoTokenizer.from_pretrained(tmp_path)(*pair, return_tensors="pt")
    with torch.no_grad():
        wanted = float(model(**batch).logits)
    named = model.state_dict()
    assert all(
        torch.equal(one.to(torch.float16).float(), named[name])
        for name, one in state.averaged().items()
    )
    ours = Reranker(tmp_path, dtype="float32").rank(pair[0], [pair[1]])[0].raw_score
    theirs = CrossEncoder(str(tmp_path), activation_fn=torch.nn.Identity()).predict([pair])[0]
    packaged = Reranker(dtype="float32").rank(pair[0], [pair[1]])[0].raw_score
    assert ours == pytest.approx(wanted, abs=1e-4)
    assert float(theirs) == pytest.approx(wanted, abs=0.05)  # in the file's float16
    assert abs(packaged - wanted) > 0.01
