"""Choice of the backend for ``backend="auto"``, and models that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from rerank_plugins import DecoderSpec, FlagSpec, Reranker
from rerank_plugins.backends.detection import choose_cross_encoder
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import ConfigurationError, ModelLoadError
from tests.backends.test_bi_encoder import save_bi_encoder
from tests.helpers.decoder_reference import prompted_scores
from tests.helpers.tiny_decoders import CHAT_TEMPLATE, save_classifier, save_language_model
from tests.helpers.tiny_flag import save_layerwise, save_lightweight
from tests.helpers.tiny_models import save_reranker
from tests.helpers.tiny_modular import save_modular

PAIRS = [("who wrote faust", "Goethe did"), ("rain", "")]


def write_config(folder: Path, **settings: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    return str(folder)


def test_the_embedded_model_uses_torch() -> None:
    assert choose_cross_encoder(ModelConfig()) == "torch"


@pytest.mark.parametrize(
    ("architecture", "kind", "backend"),
    [
        ("BertForSequenceClassification", "bert", "torch"),
        ("T5ForSequenceClassification", "t5", "torch"),
        ("Qwen2ForSequenceClassification", "qwen2", "decoder"),
        ("LayerWiseMiniCPMForCausalLM", "minicpm", "flag"),
        ("CostWiseGemmaForCausalLM", "cost_wise_gemma", "flag"),
    ],
)
def test_choice_by_configuration(
    architecture: str, kind: str, backend: str, tmp_path: Path
) -> None:
    folder = write_config(tmp_path / "any", architectures=[architecture], model_type=kind)
    assert choose_cross_encoder(ModelConfig(folder)) == backend


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("Qwen3-Reranker-0.6B", "decoder"),
        ("mxbai-rerank-large-v2", "decoder"),
        ("bge-reranker-v2-gemma", "flag"),
    ],
)
def test_choice_by_whole_name(name: str, backend: str, tmp_path: Path) -> None:
    folder = write_config(tmp_path / name, architectures=["AnyForCausalLM"])
    assert choose_cross_encoder(ModelConfig(folder)) == backend
    similar = write_config(tmp_path / f"not-{name}", architectures=["AnyForCausalLM"])
    with pytest.raises(ModelLoadError, match="a generative language model"):
        choose_cross_encoder(ModelConfig(similar))


def test_choice_by_cached_files(tmp_path: Path) -> None:
    """The files of a Hub name are found in the cache, without network access."""
    folder = save_modular("modernbert", tmp_path / "made")
    commit = "0" * 40
    repository = tmp_path / "cache" / "models--some-owner--some-model"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    config = ModelConfig("some-owner/some-model", cache_folder=str(tmp_path / "cache"))
    assert choose_cross_encoder(config) == "torch"


def test_other_kinds_of_models_are_refused(tmp_path: Path) -> None:
    bi_encoder = save_bi_encoder(tmp_path / "bi", {})
    with pytest.raises(ModelLoadError, match=r"is a bi-encoder \(Transformer, Pooling\)"):
        Reranker(bi_encoder).warm_up()
    language_model = save_language_model("llama", tmp_path / "lm")
    with pytest.raises(ModelLoadError, match="LlamaForCausalLM, a generative language model"):
        Reranker(language_model).warm_up()
    with pytest.raises(ModelLoadError, match="files do not describe how it reranks"):
        Reranker(DecoderSpec(str(language_model))).warm_up()
    classifier = save_classifier("qwen2", tmp_path / "five", labels=5)
    with pytest.raises(ModelLoadError, match="has 5 labels"):
        Reranker(classifier).warm_up()
    encoder = save_reranker("bert", tmp_path / "encoder")
    with pytest.raises(ModelLoadError, match="is not one of FlagEmbedding's rerankers"):
        Reranker(FlagSpec(str(language_model))).warm_up()
    (encoder / "modules.json").write_text('{"a": 1}')
    with pytest.raises(ModelLoadError, match=r"modules\.json .* does not list modules"):
        Reranker(encoder).warm_up()


def test_a_chat_template_that_the_backend_ignores_is_refused(tmp_path: Path) -> None:
    folder = save_classifier("qwen3", tmp_path, template=CHAT_TEMPLATE)
    with pytest.raises(ModelLoadError, match="has a chat template"):
        Reranker(folder, backend="torch").warm_up()


def test_a_chat_template_without_the_two_roles_is_refused(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content | trim }}{% endfor %}"
    folder = save_classifier("qwen3", tmp_path, template=template)
    with pytest.raises(ModelLoadError, match="does not insert a message of the role query"):
        Reranker(folder).warm_up()


def test_a_fine_tuned_model_uses_the_prompt_of_its_family(tmp_path: Path) -> None:
    folder = save_language_model("qwen3", tmp_path / "tuned")
    model = DecoderSpec(str(folder), family="qwen3", instruction="Find the clause.")
    scores = Reranker(model, dtype="float32", activation="none").score(PAIRS)
    expected = prompted_scores("qwen3", folder, PAIRS, "Find the clause.")
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
    other = Reranker(DecoderSpec(str(folder), family="qwen3"), dtype="float32", activation="none")
    assert np.abs(other.score(PAIRS) - expected).max() > 1e-3
    again = Reranker(model, dtype="float32")
    assert other.engine.identity.fingerprint != again.engine.identity.fingerprint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecoderSpec(""), "model is ''"),
        (lambda: DecoderSpec("a", family="gpt"), "family is 'gpt'"),  # type: ignore[arg-type]
        (lambda: DecoderSpec("a", instruction=3), "instruction is 3"),  # type: ignore[arg-type]
        (lambda: FlagSpec("a", variant="big"), "variant is 'big'"),  # type: ignore[arg-type]
        (lambda: FlagSpec("a", compress_ratio=3), "compress_ratio is 3"),
        (lambda: FlagSpec("a", compress_layers=(0,)), "compress_layers is"),
        (lambda: FlagSpec("a", cutoff_layers=[8, 9]), "one number of layers"),  # type: ignore[arg-type]
    ],
)
def test_invalid_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_settings_of_other_variants_are_refused(tmp_path: Path) -> None:
    layerwise = save_layerwise(tmp_path / "layerwise")
    for settings, message in (
        (
            {"compress_ratio": 2},
            "compress_ratio is 2, but .* is layerwise, which does not support it",
        ),
        ({"cutoff_layers": 1}, "cutoff_layers is 1; .* scores after layers 2 to 4"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Reranker(FlagSpec(str(layerwise), **settings)).warm_up()  # type: ignore[arg-type]
    gemma = save_language_model("gemma", tmp_path / "bge-reranker-v2-gemma")
    with pytest.raises(ConfigurationError, match="takes no instruction"):
        Reranker(DecoderSpec(str(gemma), family="gemma", instruction="x")).warm_up()


def test_cutoff_layers_loads_fewer_layers(tmp_path: Path) -> None:
    folder = save_lightweight(tmp_path)
    backend: Any = Reranker(FlagSpec(str(folder), cutoff_layers=2)).engine.backend
    assert len(backend._model._base.layers) == 2
    assert isinstance(backend._model._base, transformers.Gemma2Model)


def test_a_prompt_longer_than_max_length_is_refused(tmp_path: Path) -> None:
    folder = save_language_model("qwen3", tmp_path / "Qwen3-Reranker-0.6B")
    with pytest.raises(ConfigurationError, match=r"the prompt of .* alone has"):
        Reranker(folder, max_length=64).rank("rain", ["water"])
