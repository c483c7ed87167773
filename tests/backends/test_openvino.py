"""OpenVINO computes what torch computes: float32 closely, int8 within what is documented."""

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
"""Their graphs are BERT's, so the quick tests leave them out."""


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in ARCHITECTURES],
)
def test_float32_scores_equal_the_reference(architecture: str, tmp_path: Path) -> None:
    folder = save_reranker(architecture, tmp_path)
    with Reranker(folder, backend="openvino", dtype="float32") as reranker:
        scores = reranker.score(PAIRS)
        assert reranker.engine.backend.identity.backend == "openvino"
    assert np.ptp(scores) > 0.1, "scores that hardly differ would prove nothing"
    np.testing.assert_allclose(scores, reference(folder, PAIRS), rtol=0, atol=1e-4)


def test_two_labels_use_the_second(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path, labels=2)
    wanted = Reranker(folder, dtype="float32", backend="torch").score(PAIRS)
    scores = Reranker(folder, dtype="float32", backend="openvino").score(PAIRS)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-4)


def test_types_that_a_model_does_not_read_are_none(tmp_path: Path) -> None:
    """A tokenizer's template may count the document as 1 where the model has one type, 0."""
    folder = save_reranker("roberta", tmp_path)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    for part in content["post_processor"]["pair"][-2:]:
        next(iter(part.values()))["type_id"] = 1
    file.write_text(json.dumps(content))
    wanted = Reranker(folder, dtype="float32", backend="torch").score(PAIRS)
    scores = Reranker(folder, dtype="float32", backend="openvino").score(PAIRS)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-4)


def test_reach_is_the_models_own(tmp_path: Path) -> None:
    """The widest rows are as wide as the maximum length, which no multiple of 16 may exceed."""
    folder = save_reranker("roberta", tmp_path)
    long = TextPair("rain", " ".join(TEXTS * 200))
    one, other = (
        Reranker(folder, backend=name, dtype="float32", max_length=None)
        for name in ("openvino", "torch")
    )
    assert one.engine.backend.identity.max_length == 512
    np.testing.assert_allclose(one.score([long]), other.score([long]), rtol=0, atol=1e-4)
    assert one.rank(*long[:1], [long.document]).stats.tokens == 512


@pytest.mark.parametrize("prompts", ["none", "both"])
def test_float32_embeddings_equal_the_reference(prompts: str, tmp_path: Path) -> None:
    folder = save_bi_encoder(tmp_path, PROMPTS[prompts])
    wanted = BiEncoder(folder, dtype="float32", backend="sentence-transformers")
    made = BiEncoder(folder, dtype="float32", backend="openvino")
    for role in ("encode_query", "encode_document"):
        found, right = (getattr(one, role)(DOCUMENTS) for one in (made, wanted))
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-5)
    cut, whole = (one.engine.backend.prepare for one in (made, wanted))
    items: Any = [RoleText(text, "document") for text in DOCUMENTS]
    assert [(one.tokens, one.truncated) for one in cut(items, 20)] == [
        (one.tokens, one.truncated) for one in whole(items, 20)
    ]


def test_int8_is_asked_for_by_its_name_and_its_texts_count(tmp_path: Path) -> None:
    folder = save_reranker("bert", tmp_path)
    own = OpenVINOSpec(folder, calibration=[(text, text) for text in TEXTS] * 2)
    identities = set()
    for model in (folder, own):
        with Reranker(model, dtype="int8") as reranker:
            assert np.isfinite(reranker.score(PAIRS)).all()
            identities.add(reranker.engine.backend.identity)
    assert {one.backend for one in identities} == {"openvino"}
    assert {one.dtype for one in identities} == {"int8"}
    assert len({one.fingerprint for one in identities}) == 2


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Reranker, {"backend": "torch", "dtype": "int8"}, "backend 'openvino' computes"),
        (BiEncoder, {"backend": "sentence-transformers", "dtype": "int8"}, "backend 'openvino'"),
        (Reranker, {"backend": "openvino", "device": "meta"}, "device is 'meta'"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    kind: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(**settings).engine  # noqa: B018  (the property loads the model)


def test_what_the_cpu_cannot_compute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime: Any = pytest.importorskip("rerank_plugins.backends.openvino.runtime")
    monkeypatch.setitem(runtime._CAPABILITIES, "float16", "none")  # as on most CPUs
    with pytest.raises(ConfigurationError, match="does not compute that"):
        Reranker(backend="openvino", dtype="float16").warm_up()


@pytest.mark.parametrize("calibration", [[], ["ab"], [("a",)], [("a", 1)], [("a", "b", "c")]])
def test_calibration_is_checked(calibration: Any) -> None:
    with pytest.raises(ConfigurationError, match="calibration"):
        OpenVINOSpec("mini", calibration=calibration)


@pytest.mark.parametrize("calibration", [None, [("a", "b"), ("c", "d")]])
def test_settings_survive_pickles_and_dictionaries(calibration: Any) -> None:
    model = OpenVINOSpec("mini", calibration)
    postprocessor = CrossEncoderPostprocessor(model=model, dtype="int8")
    for copy in (
        pickle.loads(pickle.dumps(postprocessor)),  # noqa: S301  (our own)
        CrossEncoderPostprocessor.from_dict(postprocessor.to_dict()),
    ):
        assert copy.model == model
        assert hash(copy.model) == hash(model)


def test_modules_that_are_not_known_are_refused(tmp_path: Path) -> None:
    folder = save_bi_encoder(tmp_path, {})
    file = folder / "1_Pooling" / "config.json"
    file.write_text(file.read_text().replace('"mean"', '"max"'))
    with pytest.raises(ModelLoadError, match="pooling 'max'"):
        BiEncoder(folder, backend="openvino").engine  # noqa: B018


def test_groups_hold_every_row_once_and_waste_little() -> None:
    from rerank_plugins.backends.openvino.runtime import groups  # noqa: PLC0415  (after the skip)

    lengths = [int(one) for one in np.random.default_rng(3).integers(1, 513, 200)]
    parts = groups(lengths, 500, 2)
    assert sorted(row for part in parts for row in part.rows) == list(range(200))
    for part in parts:
        assert len(part.rows) in (1, 2, 4)
        longest = max(min(lengths[row], 500) for row in part.rows)
        assert part.width == 500 or longest <= part.width < longest + 16
    assert len(groups([100] * 4, 512, 4)) == 4, "every stream gets something"


def test_threads_share_an_engine_that_unloads_when_idle(tmp_path: Path) -> None:
    """Many threads, ranked in shared batches, get what each gets alone."""
    folder = save_reranker("bert", tmp_path)
    with Reranker(folder, backend="openvino", dtype="float32", idle_unload_s=0.2) as reranker:
        alone = [reranker.score([pair])[0] for pair in PAIRS]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda pair: reranker.score([pair])[0], PAIRS * 8))
        np.testing.assert_allclose(together, alone * 8, rtol=0, atol=1e-5)
        deadline = monotonic() + 30
        while reranker.engine.loaded and monotonic() < deadline:
            sleep(0.05)
        assert not reranker.engine.loaded, "it was not unloaded"
        np.testing.assert_allclose(reranker.score(PAIRS), alone, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_mini_in_int8_orders_as_in_float32() -> None:
    """What docs/cpu.md says of mini: scores correlate by more than 0.99, on any texts."""
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
        Reranker(backend=backend, dtype="float32").score(pairs) for backend in ("torch", "openvino")
    )
    int8 = Reranker(dtype="int8").score(pairs)
    np.testing.assert_allclose(openvino, exact, rtol=0, atol=1e-4)
    peers = reference(cross_encoder_folder(), [(pair.query, pair.document) for pair in pairs[:8]])
    np.testing.assert_allclose(exact[:8], peers, rtol=0, atol=1e-5)
    assert np.corrcoef(int8, exact)[0, 1] > 0.99
    assert 0 < np.abs(int8 - exact).max() < 2
