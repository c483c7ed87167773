"""Parity of the OpenVINO backend with torch: float32 closely, int8 within documented bounds."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

from rerank_plugins import BiEncoder, OpenVINOSpec, Reranker
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.engine.backend import RoleText
from rerank_plugins.errors import ConfigurationError, ModelLoadError
from rerank_plugins.evaluation.datasets import read_beir
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from rerank_plugins.types import TextPair
from tests.backends.test_bi_encoder import DOCUMENTS, PROMPTS, save_bi_encoder
from tests.backends.test_parity import PAIRS, reference
from tests.helpers.tiny_models import ARCHITECTURES, TEXTS, save_reranker

pytest.importorskip("rerank_plugins.backends.openvino.conversion", exc_type=ImportError)

ROOT = Path(__file__).parents[2]
SLOW = {"electra", "roberta", "xlm-roberta"}
"""Their graphs are BERT's, so they are not among the quick tests."""


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ARCHITECTURES],
)
def test_float32_scores_equal_the_reference(architecture: str, tmp_path: Path) -> None:
    folder = save_reranker(architecture, tmp_path)
    with Reranker(folder, backend="openvino", dtype="float32", activation="none") as reranker:
        scores = reranker.score(PAIRS)
        assert reranker.engine.backend.identity.backend == "openvino"
    assert np.ptp(scores) > 0.1, "the test needs scores that differ"
    np.testing.assert_allclose(scores, reference(folder, PAIRS), rtol=0, atol=1e-4)


def test_two_labels_use_the_second(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path, labels=2)
    expected = Reranker(folder, dtype="float32", backend="torch", activation="none").score(PAIRS)
    scores = Reranker(folder, dtype="float32", backend="openvino", activation="none").score(PAIRS)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)


def test_token_types_are_ignored_by_a_model_without_them(tmp_path: Path) -> None:
    """A tokenizer may give the document the type 1 although the model has only type 0."""
    folder = save_reranker("roberta", tmp_path)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    for part in content["post_processor"]["pair"][-2:]:
        next(iter(part.values()))["type_id"] = 1
    file.write_text(json.dumps(content))
    expected = Reranker(folder, dtype="float32", backend="torch", activation="none").score(PAIRS)
    scores = Reranker(folder, dtype="float32", backend="openvino", activation="none").score(PAIRS)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)


def test_max_seq_length_is_that_of_the_model(tmp_path: Path) -> None:
    """Padding to multiples of 16 does not exceed the maximum sequence length."""
    folder = save_reranker("roberta", tmp_path)
    long = TextPair("rain", " ".join(TEXTS * 200))
    openvino, torch = (
        Reranker(folder, backend=name, dtype="float32", max_length=None, activation="none")
        for name in ("openvino", "torch")
    )
    assert openvino.engine.backend.identity.max_length == 512
    np.testing.assert_allclose(openvino.score([long]), torch.score([long]), rtol=0, atol=1e-4)
    assert openvino.rank(*long[:1], [long.document]).stats.tokens == 512


@pytest.mark.parametrize("prompts", ["none", "both"])
def test_float32_embeddings_equal_the_reference(prompts: str, tmp_path: Path) -> None:
    folder = save_bi_encoder(tmp_path, PROMPTS[prompts])
    reference_encoder = BiEncoder(folder, dtype="float32", backend="sentence-transformers")
    encoder = BiEncoder(folder, dtype="float32", backend="openvino")
    for role in ("encode_query", "encode_document"):
        vectors, expected = (
            getattr(model, role)(DOCUMENTS) for model in (encoder, reference_encoder)
        )
        np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)
    items: Any = [RoleText(text, "document") for text in DOCUMENTS]
    prepared, expected_items = (
        model.engine.backend.prepare(items, 20) for model in (encoder, reference_encoder)
    )
    assert [(item.tokens, item.truncated) for item in prepared] == [
        (item.tokens, item.truncated) for item in expected_items
    ]


def test_int8_identity_depends_on_the_calibration_texts(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    spec = OpenVINOSpec(folder, calibration=[(text, text) for text in TEXTS] * 2)
    identities = set()
    for model in (folder, spec):
        with Reranker(model, dtype="int8", activation="none") as reranker:
            assert np.isfinite(reranker.score(PAIRS)).all()
            identities.add(reranker.engine.backend.identity)
    assert {identity.backend for identity in identities} == {"openvino"}
    assert {identity.dtype for identity in identities} == {"int8"}
    assert len({identity.fingerprint for identity in identities}) == 2


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Reranker, {"backend": "torch", "dtype": "int8"}, "only backend 'openvino' supports"),
        (BiEncoder, {"backend": "sentence-transformers", "dtype": "int8"}, "backend 'openvino'"),
        (Reranker, {"backend": "openvino", "device": "meta"}, "device is 'meta'"),
    ],
)
def test_unsupported_settings_are_refused(
    kind: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(**settings).engine  # noqa: B018  (the property loads the model)


def test_a_dtype_that_the_cpu_does_not_support_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime: Any = pytest.importorskip("rerank_plugins.backends.openvino.runtime")
    monkeypatch.setitem(runtime._CAPABILITIES, "float16", "none")  # as on most CPUs
    with pytest.raises(ConfigurationError, match="does not compute on this CPU"):
        Reranker(backend="openvino", dtype="float16").warm_up()


@pytest.mark.parametrize("calibration", [[], ["ab"], [("a",)], [("a", 1)], [("a", "b", "c")]])
def test_calibration_is_validated(calibration: Any) -> None:
    with pytest.raises(ConfigurationError, match="calibration"):
        OpenVINOSpec("mini", calibration=calibration)


@pytest.mark.parametrize("calibration", [None, [("a", "b"), ("c", "d")]])
def test_specs_survive_pickle_and_dictionaries(calibration: Any) -> None:
    model = OpenVINOSpec("mini", calibration)
    postprocessor = CrossEncoderPostprocessor(model=model, dtype="int8")
    for copy in (
        pickle.loads(pickle.dumps(postprocessor)),  # noqa: S301  (our own)
        CrossEncoderPostprocessor.from_dict(postprocessor.to_dict()),
    ):
        assert copy.model == model
        assert hash(copy.model) == hash(model)


def test_unsupported_modules_are_refused(tmp_path: Path) -> None:
    folder = save_bi_encoder(tmp_path, {})
    file = folder / "1_Pooling" / "config.json"
    file.write_text(file.read_text().replace('"mean"', '"max"'))
    with pytest.raises(ModelLoadError, match="pooling 'max'"):
        BiEncoder(folder, backend="openvino").engine  # noqa: B018


def test_row_groups_contain_every_row_once_with_little_padding() -> None:
    from rerank_plugins.backends.openvino.runtime import group_rows  # noqa: PLC0415  (after the skip)

    lengths = [int(length) for length in np.random.default_rng(3).integers(1, 513, 200)]
    groups = group_rows(lengths, 500, 2)
    assert sorted(row for group in groups for row in group.rows) == list(range(200))
    for group in groups:
        assert len(group.rows) in (1, 2, 4)
        longest = max(min(lengths[row], 500) for row in group.rows)
        assert group.width == 500 or longest <= group.width < longest + 16
    assert len(group_rows([100] * 4, 512, 4)) == 4, "every stream gets a group"


def test_threads_share_an_engine_that_unloads_when_idle(tmp_path: Path) -> None:
    """Threads whose requests share batches get the scores of single requests."""
    folder = save_reranker("bert", tmp_path)
    with Reranker(
        folder, backend="openvino", dtype="float32", idle_unload_s=0.2, activation="none"
    ) as reranker:
        single = [reranker.score([pair])[0] for pair in PAIRS]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda pair: reranker.score([pair])[0], PAIRS * 8))
        np.testing.assert_allclose(together, single * 8, rtol=0, atol=1e-5)
        deadline = monotonic() + 30
        while reranker.engine.loaded and monotonic() < deadline:
            sleep(0.05)
        assert not reranker.engine.loaded, "the model was not unloaded"
        np.testing.assert_allclose(reranker.score(PAIRS), single, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_mini_in_int8_orders_as_in_float32() -> None:
    """The claim of docs/cpu.md: the scores of mini in int8 correlate by more than 0.99."""
    data = read_beir(ROOT / "rerank_plugins" / "data" / "squad-dev")
    texts = [passage.content for passage in data.passages]
    queries = list(data.queries.values())[:40]
    pairs = [
        TextPair(query, texts[(97 * number + 13 * step) % len(texts)])
        for number, query in enumerate(queries)
        for step in range(8)
    ]
    pairs += [TextPair(text.split(". ")[0], text) for text in texts[::200]]
    exact, openvino = (
        Reranker(backend=backend, dtype="float32", activation="none").score(pairs)
        for backend in ("torch", "openvino")
    )
    int8 = Reranker(dtype="int8", activation="none").score(pairs)
    np.testing.assert_allclose(openvino, exact, rtol=0, atol=1e-4)
    peers = reference(cross_encoder_folder(), [(pair.query, pair.document) for pair in pairs[:8]])
    np.testing.assert_allclose(exact[:8], peers, rtol=0, atol=1e-5)
    assert np.corrcoef(int8, exact)[0, 1] > 0.99
    assert 0 < np.abs(int8 - exact).max() < 2
