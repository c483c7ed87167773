"""How many tokens a model reads: what its files say must be such a number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.errors import ModelLoadError
from tests.helpers.tiny_bi_encoders import save_dense
from tests.helpers.tiny_models import save_reranker


@pytest.mark.parametrize("backend", ["torch", "sbert"])
@pytest.mark.parametrize("most", [True, 1, -5, "many"])
def test_a_reach_is_a_number_of_tokens(tmp_path: Path, backend: str, most: object) -> None:
    folder = save_reranker("bert", tmp_path)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": most}))
    with pytest.raises(ModelLoadError, match=r"max_(seq_)?length is|many|str"):
        Reranker(folder, backend=backend, dtype="float32").warm_up()


@pytest.mark.parametrize("most", [True, 3])
def test_the_reach_of_a_bi_encoder_is_a_number_of_tokens(tmp_path: Path, most: object) -> None:
    folder = save_dense("bert", tmp_path)
    file = folder / "sentence_bert_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_seq_length": most}))
    with pytest.raises(ModelLoadError, match=f"max_seq_length is {most}"):
        BiEncoder(folder).warm_up()
