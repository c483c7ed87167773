"""Invalid maximum lengths in the files of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.errors import ModelLoadError
from tests.helpers.tiny_bi_encoders import save_dense
from tests.helpers.tiny_models import save_reranker


@pytest.mark.parametrize("backend", ["torch", "sbert"])
@pytest.mark.parametrize("max_length", [True, 1, -5, "many"])
def test_an_invalid_max_length_of_a_reranker_is_refused(
    tmp_path: Path, backend: str, max_length: object
) -> None:
    folder = save_reranker("bert", tmp_path)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": max_length}))
    with pytest.raises(ModelLoadError, match=r"max_(seq_)?length is|many|str"):
        Reranker(folder, backend=backend, dtype="float32").warm_up()


@pytest.mark.parametrize("max_length", [True, 3])
def test_an_invalid_max_length_of_a_bi_encoder_is_refused(
    tmp_path: Path, max_length: object
) -> None:
    folder = save_dense("bert", tmp_path)
    file = folder / "sentence_bert_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_seq_length": max_length}))
    with pytest.raises(ModelLoadError, match=f"max_seq_length is {max_length}"):
        BiEncoder(folder).warm_up()
