"""Prompts of a model's own configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rerank_plugins import Reranker
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.backends.model_files import read_prompts
from rerank_plugins.errors import ModelLoadError


def test_prompts_of_the_models_configuration_are_used(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cross_encoder_folder(), tmp_path / "prompted"))
    settings = {"prompts": {"query": "query: ", "document": "passage: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with Reranker(folder) as prompted:
        score = prompted.rank("rain", ["It rains."])[0].raw_score
        bare = Reranker(folder, prompts={"query": "", "document": ""})
        assert bare.rank("rain", ["It rains."])[0].raw_score != pytest.approx(score, abs=1e-4)
    same = Reranker().rank("query: rain", ["passage: It rains."])[0].raw_score
    assert score == pytest.approx(same, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"prompts": {}}, {}),
        ({"prompts": None, "default_prompt_name": None}, {}),
        ({"prompts": {"query": "q: "}}, {"query": "q: "}),
        ({"prompts": {"rerank": "r: "}}, {}),
        ({"prompts": {"rerank": "r: "}, "default_prompt_name": "rerank"}, {"query": "r: "}),
        ({"prompts": {"query": "", "document": "d: "}}, {"document": "d: "}),
    ],
)
def test_prompts_are_read(settings: object, expected: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert read_prompts(str(tmp_path), {}) == expected


@pytest.mark.parametrize("text", ["[]", '{"prompts": 3}', "{", '{"prompts": ["a"]}'])
def test_an_invalid_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config_sentence_transformers.json").write_text(text)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_prompts(str(tmp_path), {})
