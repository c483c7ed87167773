"""Settings are checked when they are given, and each message says what is allowed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from rerank_plugins import BiEncoder, RemoteSpec, Reranker
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
    ({"cache_mb": -1}, "cache_mb is -1; it must be a number of megabytes, 0 for no cache"),
    ({"cache_dir_mb": 0}, "cache_dir_mb is 0; it must be a number of megabytes, at least 1"),
    ({"cache_entries": 0, "cache_mb": 1}, "cache_entries is 0; it must be an integer"),
    ({"cache_entries": 9}, "cache_entries is 9, and cache_mb is 0.* Give cache_mb as well"),
    ({"cache_dir": " "}, "cache_dir is ' '; it must be a folder"),
    ({"cache_dir": 3}, "cache_dir is 3; it must be a folder"),
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
    ({"fusion": "sum"}, "fusion is 'sum'; allowed are none, rrf, weighted"),
    ({"fusion_weight": 1.5}, r"fusion_weight is 1\.5; it must be .* at least 0 and at most 1"),
    ({"fusion_weight": None}, "fusion_weight is None; it must be a finite number"),
    ({"deadline_ms": 0}, "deadline_ms is 0; it must be a finite number at least 1, or None"),
    ({"on_error": "ignore"}, "on_error is 'ignore'; allowed are raise, passthrough"),
    ({"score_threshold": "0.5"}, r"score_threshold is '0\.5'; it must be a finite number, or None"),
    ({"score_threshold": True}, "score_threshold is True; it must be a finite number"),
    ({"score_threshold": math.nan}, "score_threshold is nan; it must be a finite number"),
    ({"score_threshold": math.inf}, "score_threshold is inf; it must be a finite number"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_MODEL_SETTINGS)
def test_model_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    for cls in (ModelConfig, Reranker, BiEncoder):
        with pytest.raises(ConfigurationError, match=message):
            cls(**settings)


@pytest.mark.parametrize("model", [None, 3, object(), ["mini"]])
def test_a_model_is_a_name_or_a_backend(model: Any) -> None:
    kind = type(model).__name__
    with pytest.raises(ConfigurationError, match="model is"):
        ModelConfig(model=model)
    with pytest.raises(ConfigurationError, match=f"model is {kind}; .*CrossEncoderBackend"):
        Reranker(model)
    with pytest.raises(ConfigurationError, match=f"model is {kind}; .*BiEncoderBackend"):
        BiEncoder(model)


@pytest.mark.parametrize(("settings", "message"), BAD_POLICIES)
def test_policies_are_checked(settings: dict[str, Any], message: str) -> None:
    for cls in (RankingSettings, Reranker):
        with pytest.raises(ConfigurationError, match=message):
            cls(**settings)


BAD_SCORING: list[tuple[dict[str, Any], str]] = [
    ({"long_documents": "split"}, "long_documents is 'split'; allowed are truncate, windows"),
    ({"window_overlap": -1}, "window_overlap is -1; it must be an integer of at least 0"),
    ({"max_windows": 0}, "max_windows is 0; it must be an integer of at least 1, or None for all"),
    ({"best_windows": None}, "best_windows is None; it must be an integer of at least 1"),
    ({"query_prompt": 5}, "query_prompt is 5; it must be a string"),
    ({"document_prompt": b"x"}, "document_prompt is b'x'; it must be a string"),
    ({"priority": "urgent"}, "priority is 'urgent'; allowed are"),
    ({"overload": "drop"}, "overload is 'drop'; allowed are"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SCORING)
def test_scoring_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    for cls in (ScoringSettings, Reranker):
        with pytest.raises(ConfigurationError, match=message):
            cls(**settings)


@pytest.mark.parametrize("similarity", [-0.1, 1.1, "0.9", True])
def test_a_similarity_is_a_cosine(similarity: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"drop_similar is .* at most 1"):
        Reranker(drop_similar=similarity)


@pytest.mark.parametrize("name", ["query_prompt", "document_prompt"])
def test_prompts_are_strings(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is 5; it must be a string"):
        BiEncoder(**{name: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("top_n", [None, 1, 10_000])
def test_top_n_that_works(top_n: int | None) -> None:
    assert validate_top_n(top_n) == top_n


def test_settings_at_the_limit_work() -> None:
    assert ModelConfig(max_length=16).max_length == 16
    assert ModelConfig(max_length=None).max_length is None
    for threshold in (None, 0, 0.0, -3.5, 1):
        assert RankingSettings(score_threshold=threshold).score_threshold == threshold


@pytest.mark.parametrize("config", [ModelConfig(), RankingSettings(), ScoringSettings()])
def test_configurations_are_frozen_values(
    config: ModelConfig | RankingSettings | ScoringSettings,
) -> None:
    same = dataclasses.replace(config)
    assert same == config
    assert hash(same) == hash(config)
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, None)


def test_every_field_but_a_policy_is_part_of_the_identity() -> None:
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
        "cache_mb": 8,
        "cache_entries": 9,
        "cache_dir": "scores",
        "cache_dir_mb": 10,
        "settings": RemoteSpec("http://127.0.0.1:1", api="tei"),
    }
    usual = ModelConfig(cache_mb=1)
    policies = {"idle_unload_s", "cache_mb", "cache_entries", "cache_dir", "cache_dir_mb"}
    assert set(others) == {field.name for field in dataclasses.fields(ModelConfig)}
    for name, value in others.items():
        changed = dataclasses.replace(usual, **{name: value})  # type: ignore[arg-type]
        assert getattr(changed, name) != getattr(usual, name)
        assert (changed == usual) == (name in policies), name


def test_unset_is_not_none() -> None:
    assert isinstance(UNSET, Unset)
    assert UNSET is not None
