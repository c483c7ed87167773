"""Validation of settings, and error messages that list the allowed values."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from rerank_plugins import BiEncoder, Cache, Dedup, Fusion, RemoteSpec, Reranker, Windows
from rerank_plugins.config import (
    UNSET,
    ModelConfig,
    RankingSettings,
    ScoringSettings,
    Unset,
    validate_top_n,
)
from rerank_plugins.errors import ConfigurationError

BAD_MODEL_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"model": ""}, r"model is ''; give \"mini\", a Hub name or a folder"),
    ({"model": "  "}, r"model is '  '; give"),
    ({"dtype": "int4"}, "dtype is 'int4'; allowed are auto, float32, float16, bfloat16, int8"),
    ({"dtype": None}, "dtype is None; allowed are auto"),
    (
        {"cache": {"memory_mb": -1}},
        "memory_mb is -1; it must be a number of megabytes, 0 for no cache",
    ),
    ({"cache": {"folder_mb": 0}}, "folder_mb is 0; it must be a number of megabytes, at least 1"),
    ({"cache": {"max_entries": 0, "memory_mb": 1}}, "max_entries is 0; it must be an integer"),
    ({"cache": {"max_entries": 9}}, "max_entries is 9, and memory_mb is 0.* Give memory_mb as"),
    ({"cache": {"folder": " "}}, "folder is ' '; it must be a folder"),
    ({"cache": 3}, r"cache is 3; allowed are Cache\("),
    ({"cache": {"folder": 3}}, "folder is 3; it must be a folder"),
    ({"max_lenght": 64}, "no setting 'max_lenght'; did you mean max_length"),
    ({"max_length": 15}, "max_length is 15; it must be an integer of at least 16"),
    ({"max_length": 0}, "max_length is 0; it must be"),
    ({"max_length": -512}, "max_length is -512; it must be"),
    ({"max_length": True}, "max_length is True; it must be"),
    ({"max_length": 512.0}, r"max_length is 512\.0; it must be"),
    ({"max_length": "512"}, "max_length is '512'; it must be"),
]
BAD_POLICIES: list[tuple[dict[str, Any], str]] = [
    ({"top_n": 0}, "top_n is 0; it must be an integer of at least 1, or None for all"),
    ({"top_n": -1}, "top_n is -1; it must be"),
    ({"top_n": True}, "top_n is True; it must be"),
    ({"top_n": 1.5}, r"top_n is 1\.5; it must be"),
    ({"top_n": "3"}, "top_n is '3'; it must be"),
    ({"activation": "softmax"}, "activation is 'softmax'; allowed are sigmoid, none"),
    ({"activation": None}, "activation is None; allowed are"),
    ({"fusion": "sum"}, r"fusion is 'sum'; allowed are 'none', 'rrf', 'weighted', Fusion\("),
    ({"fusion": {"weight": 1.5}}, r"weight is 1\.5; it must be .* at least 0 and at most 1"),
    ({"fusion": {"weight": None}}, "weight is None; it must be a finite number"),
    ({"deadline_ms": 0}, "deadline_ms is 0; it must be a finite number at least 1, or None"),
    ({"on_error": "ignore"}, "on_error is 'ignore'; allowed are raise, passthrough"),
    ({"score_threshold": "0.5"}, r"score_threshold is '0\.5'; it must be a finite number, or None"),
    ({"score_threshold": True}, "score_threshold is True; it must be a finite number"),
    ({"score_threshold": math.nan}, "score_threshold is nan; it must be a finite number"),
    ({"score_threshold": math.inf}, "score_threshold is inf; it must be a finite number"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_MODEL_SETTINGS)
def test_model_settings_are_validated(settings: dict[str, Any], message: str) -> None:
    for cls in (ModelConfig, Reranker, BiEncoder):
        with pytest.raises(ConfigurationError, match=message):
            cls(**settings)


@pytest.mark.parametrize("model", [None, 3, object(), ["mini"]])
def test_a_model_must_be_a_name_or_a_backend(model: Any) -> None:
    kind = type(model).__name__
    with pytest.raises(ConfigurationError, match="model is"):
        ModelConfig(model=model)
    with pytest.raises(ConfigurationError, match=f"model is {kind}; .*CrossEncoderBackend"):
        Reranker(model)
    with pytest.raises(ConfigurationError, match=f"model is {kind}; .*BiEncoderBackend"):
        BiEncoder(model)


@pytest.mark.parametrize(("settings", "message"), BAD_POLICIES)
def test_ranking_settings_are_validated(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Reranker(**settings)
    with pytest.raises(ValidationError, match=message):
        RankingSettings(**settings)


BAD_SCORING: list[tuple[dict[str, Any], str]] = [
    ({"long_documents": "split"}, "long_documents is 'split'; allowed are 'truncate', 'windows'"),
    ({"long_documents": {"overlap": -1}}, "overlap is -1; it must be an integer of at least 0"),
    (
        {"long_documents": {"max_windows": 0}},
        "max_windows is 0; it must be an integer of at least 1, or None for all",
    ),
    ({"long_documents": {"top_k": None}}, "top_k is None; it must be an integer of at least 1"),
    ({"prompts": {"query": 5}}, r"prompts\[\"query\"\] is 5; it must be a string"),
    ({"prompts": {"document": b"x"}}, r"prompts\[\"document\"\] is b'x'; it must be a string"),
    ({"priority": "urgent"}, "priority is 'urgent'; allowed are"),
    ({"prompts": {"passage": "x"}}, "a role in prompts is 'passage'; allowed are"),
    ({"when_full": "drop"}, "when_full is 'drop'; allowed are"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SCORING)
def test_scoring_settings_are_validated(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Reranker(**settings)
    with pytest.raises(ValidationError, match=message):
        ScoringSettings(**settings)


@pytest.mark.parametrize("similarity", [-0.1, 1.1, "0.9", True])
def test_a_dedup_threshold_must_be_a_cosine(similarity: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"dedup is|threshold is .* at most 1"):
        Reranker(dedup=similarity)


@pytest.mark.parametrize("role", ["query", "document"])
def test_prompts_must_be_strings(role: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"prompts\[\"{role}\"\] is 5; it must be a string"
    ):
        BiEncoder(prompts={role: 5})  # type: ignore[dict-item]


@pytest.mark.parametrize("top_n", [None, 1, 10_000])
def test_valid_values_of_top_n(top_n: int | None) -> None:
    assert validate_top_n(top_n) == top_n


def test_settings_at_the_limit_are_accepted() -> None:
    assert ModelConfig(max_length=16).max_length == 16
    assert ModelConfig(max_length=None).max_length is None
    for threshold in (None, 0, 0.0, -3.5, 1):
        assert RankingSettings(score_threshold=threshold).score_threshold == threshold


@pytest.mark.parametrize(
    "settings", [ModelConfig(), Windows(), Cache(), Fusion(), Dedup(), Reranker(), BiEncoder()]
)
def test_settings_are_frozen(settings: Any) -> None:
    for name in type(settings).model_fields:
        with pytest.raises(ValidationError, match="Instance is frozen"):
            setattr(settings, name, None)


@pytest.mark.parametrize("settings", [ModelConfig(), Windows(), Cache(), Fusion(), Dedup()])
def test_equal_settings_are_equal_values(settings: Any) -> None:
    same = settings.replace()
    assert same is not settings
    assert same == settings
    assert hash(same) == hash(settings)


def test_every_field_except_policies_is_part_of_the_identity() -> None:
    others = {
        "model": "x",
        "backend": "torch",
        "device": "cpu",
        "dtype": "float32",
        "optimize": "compile",
        "max_length": 64,
        "revision": "v1",
        "cache_folder": "folder",
        "local_files_only": True,
        "trust_remote_code": True,
        "idle_unload_s": 60.0,
        "cache": Cache(memory_mb=8),
        "spec": RemoteSpec("http://127.0.0.1:1", api="tei"),
    }
    config = ModelConfig(cache=Cache(memory_mb=1))
    policies = {"idle_unload_s", "cache"}
    assert set(others) == set(ModelConfig.model_fields)
    for name, value in others.items():
        changed = config.replace(**{name: value})
        assert getattr(changed, name) != getattr(config, name)
        assert (changed == config) == (name in policies), name


def test_unset_is_not_none() -> None:
    assert isinstance(UNSET, Unset)
    assert UNSET is not None
