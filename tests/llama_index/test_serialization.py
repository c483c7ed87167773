"""Serialization of settings as dictionaries, JSON, pickles and copies, without weights."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.schema import MetadataMode, NodeWithScore
from pydantic import ValidationError

from rerank_plugins.config import ModelConfig
from rerank_plugins.core.cross_encoder import CrossEncoderScorer
from rerank_plugins.engine import loading
from rerank_plugins.engine.backend import Backend
from rerank_plugins.llama_index import BiEncoderEmbedding, CrossEncoderPostprocessor
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder

Component = CrossEncoderPostprocessor | BiEncoderEmbedding

MODEL: dict[str, Any] = {
    "model": "some/model",
    "backend": "torch",
    "device": "cpu",
    "dtype": "float32",
    "revision": "abc",
    "cache_folder": "cache",
    "local_files_only": True,
    "trust_remote_code": True,
    "max_length": 64,
    "idle_unload_s": 60.0,
    "cache": {"memory_mb": 8.0, "max_entries": 100, "folder": "scores", "folder_mb": 16.0},
}
COMPONENTS: list[tuple[type[Component], dict[str, Any]]] = [
    (
        CrossEncoderPostprocessor,
        {
            **MODEL,
            "optimize": "compile",
            "top_n": 3,
            "score_threshold": 0.25,
            "activation": "none",
            "fusion": {"method": "weighted", "weight": 0.75},
            "dedup": {"threshold": 0.9, "model": "other"},
            "long_documents": {"overlap": 16, "max_windows": 5, "top_k": 2},
            "prompts": {"query": "query: ", "document": ""},
            "deadline_ms": 250.0,
            "on_error": "passthrough",
            "metadata_keys": ["title"],
            "priority": "bulk",
            "when_full": "raise",
            "metadata_mode": MetadataMode.LLM,
            "keep_retrieval_score": True,
        },
    ),
    (
        BiEncoderEmbedding,
        {
            **MODEL,
            "prompts": {"query": "query: ", "document": ""},
            "truncate_dim": 2,
            "precision": "int8",
            "ranges": [[-0.5, -0.25], [0.5, 0.25]],
            "embed_batch_size": 7,
            "num_workers": 2,
        },
    ),
]

each = pytest.mark.parametrize(("cls", "settings"), COMPONENTS)


@each
def test_every_field_is_serialized(cls: type[Component], settings: dict[str, Any]) -> None:
    inherited = {"callback_manager", "model_name", "embeddings_cache", "rate_limiter"}
    assert set(cls.model_fields) - inherited == set(settings)
    component = cls(**settings)
    fields = component.to_dict()
    assert {name: fields[name] for name in settings} == settings
    assert cls.from_dict(fields).to_dict() == fields
    assert cls.from_json(component.to_json()).to_dict() == fields
    assert pickle.loads(pickle.dumps(component)).to_dict() == fields  # noqa: S301
    assert copy.deepcopy(component).to_dict() == fields
    assert component.to_dict() == fields


@each
def test_defaults_are_serialized(cls: type[Component], settings: dict[str, Any]) -> None:
    assert cls.from_dict(cls().to_dict()).to_dict() == cls().to_dict()
    assert cls().to_dict() != cls(**settings).to_dict()


@each
def test_the_class_name_is_stable(cls: type[Component], settings: dict[str, Any]) -> None:
    assert cls.class_name() == cls.__name__ == cls(**settings).to_dict()["class_name"]


@each
def test_the_settings_are_passed_to_the_core(
    cls: type[Component], settings: dict[str, Any]
) -> None:
    component = cls(**settings)
    if isinstance(component, CrossEncoderPostprocessor):
        reranker = component.reranker()
        assert isinstance(reranker.scorer, CrossEncoderScorer)
        model = reranker.scorer.client._model
        core_settings = (reranker.top_n, reranker.score_threshold, reranker.activation)
        assert core_settings == (3, 0.25, "none")
    else:
        model = component.bi_encoder()._client._model
    assert model == ModelConfig(**MODEL, optimize=settings.get("optimize", "none"))


@each
def test_an_unknown_setting_is_refused(cls: type[Component], settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        cls.from_dict({**settings, "devise": "cpu"})


@each
def test_paths_are_converted_to_strings(cls: type[Component], settings: dict[str, Any]) -> None:
    paths = {"model": Path("a") / "b", "cache_folder": Path("c"), "cache": {"folder": Path("d")}}
    component = cls(**{**settings, **paths})
    assert component.cache is not None
    values = (component.model, component.cache_folder, component.cache.folder)
    assert values == (str(Path("a") / "b"), "c", "d")
    json.loads(component.to_json())


@each
def test_callback_handlers_are_not_pickled(cls: type[Component], settings: dict[str, Any]) -> None:
    manager = CallbackManager([LlamaDebugHandler(print_trace_on_end=False)])
    restored = pickle.loads(pickle.dumps(cls(**settings, callback_manager=manager)))  # noqa: S301
    assert restored.callback_manager.handlers == []


# --- remote code ----------------------------------------------------------------------------


class RecordingLoader:
    """Records the configurations to load and returns a fake backend."""

    def __init__(self, backend: FakeCrossEncoder | FakeBiEncoder) -> None:
        self.configs: list[ModelConfig] = []
        self._backend = backend

    def resolve(self, config: ModelConfig) -> ModelConfig:
        return config

    def load(self, config: ModelConfig) -> Backend[Any]:
        self.configs.append(config)
        return self._backend


@pytest.mark.parametrize("trusted", [None, False, True])
def test_remote_code_runs_only_when_enabled(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[NodeWithScore],
    trusted: bool | None,
) -> None:
    reranking, encoding = RecordingLoader(FakeCrossEncoder()), RecordingLoader(FakeBiEncoder())
    monkeypatch.setitem(loading._LOADERS, "cross-encoder", reranking)
    monkeypatch.setitem(loading._LOADERS, "bi-encoder", encoding)
    arguments: dict[str, Any] = {} if trusted is None else {"trust_remote_code": trusted}
    name = f"remote/{trusted}"
    reranker = CrossEncoderPostprocessor(model=name, **arguments)
    embedding = BiEncoderEmbedding(model=name, **arguments)
    reranker.postprocess_nodes(nodes, query_str="q")
    embedding.get_query_embedding("q")
    for component, loader in ((reranker, reranking), (embedding, encoding)):
        assert component.trust_remote_code is bool(trusted)
        assert [config.trust_remote_code for config in loader.configs] == [bool(trusted)]


@pytest.mark.parametrize("cls", [CrossEncoderPostprocessor, BiEncoderEmbedding])
def test_remote_code_is_off_by_default(cls: type[Component]) -> None:
    assert cls.model_fields["trust_remote_code"].default is False


# --- weights --------------------------------------------------------------------------------


def test_a_used_postprocessor_is_pickled_without_weights(nodes: list[NodeWithScore]) -> None:
    reranker = CrossEncoderPostprocessor(top_n=2)
    expected = reranker.postprocess_nodes(nodes, query_str="who wrote faust")
    data = pickle.dumps(reranker)
    assert len(data) < 2_000
    for restored in (pickle.loads(data), copy.deepcopy(reranker)):  # noqa: S301
        assert restored.reranker().engine is reranker.reranker().engine
        assert restored.postprocess_nodes(nodes, query_str="who wrote faust") == expected


def test_a_used_embedding_is_pickled_without_weights() -> None:
    embedding = BiEncoderEmbedding()
    expected = embedding.get_query_embedding("who wrote faust")
    data = pickle.dumps(embedding)
    assert len(data) < 2_000
    for restored in (pickle.loads(data), copy.deepcopy(embedding)):  # noqa: S301
        assert restored.bi_encoder().engine is embedding.bi_encoder().engine
        assert restored.get_query_embedding("who wrote faust") == expected


def test_a_model_object_that_cannot_be_pickled_is_an_error() -> None:
    reranker = CrossEncoderPostprocessor(model=FakeCrossEncoder(lambda *_: 0.0))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(reranker)
