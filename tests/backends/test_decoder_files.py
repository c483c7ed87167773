"""Invalid files of decoder rerankers are refused with an error that names the value."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rerank_plugins import DecoderSpec, Reranker
from rerank_plugins.errors import ModelLoadError
from tests.helpers.tiny_decoders import (
    CHAT_TEMPLATE,
    decoder_tokenizer,
    save_classifier,
    save_language_model,
    save_logit_score,
    sizes,
)


@pytest.fixture(scope="module")
def valid_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_logit_score("qwen3", tmp_path_factory.mktemp("decoder"))


@pytest.fixture
def folder(valid_folder: Path, tmp_path: Path) -> Path:
    """A working reranker that the test breaks."""
    return Path(shutil.copytree(valid_folder, tmp_path / "model"))


def change(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text("utf-8")) if file.exists() else {}
    file.write_text(json.dumps(content | changes), "utf-8")


def load_error(model: Path | DecoderSpec) -> str:
    with pytest.raises(ModelLoadError) as caught, Reranker(model, device="cpu") as reranker:
        reranker.score([("a", "b")])
    return str(caught.value)


@pytest.mark.parametrize("name", ["true_token_id", "false_token_id"])
@pytest.mark.parametrize("token", [-1, 400, 10**12, True, False, 1.5, "3", "", [1]])
def test_answer_tokens_must_be_token_ids(folder: Path, name: str, token: object) -> None:
    change(folder / "1_LogitScore" / "config.json", **{name: token})
    message = load_error(folder)
    assert repr(token) in message
    assert "from 0 to 399" in message or f"{name} is" in message


def test_a_reranker_without_yes_is_refused(folder: Path) -> None:
    """The logit of the answer "no" alone would reverse the ranking."""
    change(folder / "1_LogitScore" / "config.json", true_token_id=None)
    assert "true_token_id is None" in load_error(folder)
    (folder / "1_LogitScore" / "config.json").unlink()
    assert "true_token_id is None" in load_error(folder)


@pytest.mark.parametrize("settings", [[1], {"processing_kwargs": 3}, {"processing_kwargs": {
    "chat_template": "x"}}])  # fmt: skip
def test_arguments_of_a_chat_template_must_be_an_object(folder: Path, settings: object) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    assert "must be an object" in load_error(folder)


@pytest.mark.parametrize("settings", [{"prompts": [1]}, {"default_prompt_name": ["search"]}])
def test_prompts_must_have_names(folder: Path, settings: dict[str, Any]) -> None:
    change(folder / "config_sentence_transformers.json", **settings)
    message = load_error(folder)
    assert repr(next(iter(settings.values()))) in message
    assert "default_prompt_name" in message


def test_a_chat_template_that_cannot_be_tokenized_is_refused(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text("{{ '\\ud800' }}" + CHAT_TEMPLATE, "utf-8")
    message = load_error(folder)
    assert "chat template" in message
    assert "surrogates not allowed" in message


@pytest.mark.parametrize("limit", [0, -5, float("nan"), "x", True, None])
def test_the_maximum_length_must_be_a_number_of_tokens(folder: Path, limit: object) -> None:
    change(folder / "tokenizer_config.json", model_max_length=limit)
    if limit is None:  # means no limit in transformers
        with Reranker(folder, device="cpu") as reranker:
            assert reranker.score([("a", "b")]).shape == (1,)
        return
    message = load_error(folder)
    assert f"model_max_length is {limit!r}" in message
    assert "at least 1" in message


def test_an_answer_without_a_token_is_refused(tmp_path: Path) -> None:
    folder = save_language_model("llama", tmp_path / "plain")
    rules = [{"type": "Replace", "pattern": {"Regex": "^(yes|no)$"}, "content": ""}]
    change(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": rules})
    assert "no token for 'yes'" in load_error(DecoderSpec(str(folder), family="qwen3"))


def test_head_sizes_are_limited_by_the_size_of_the_weights(tmp_path: Path) -> None:
    """Loading allocates gigabytes for missing weights before it reports them."""
    folder = save_classifier("qwen3", tmp_path / "model", template=CHAT_TEMPLATE)
    weights = {
        name: tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if "self_attn" not in name
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", head_dim=200_000)
    assert "head_dim is 200000" in load_error(folder)
    change(folder / "config.json", head_dim=99_999, num_attention_heads=400)
    message = load_error(folder)
    assert "num_attention_heads times head_dim is" in message
    assert "with these weights" in message


def test_a_huge_chat_template_is_not_read(folder: Path) -> None:
    with (folder / "chat_template.jinja").open("r+b") as file:
        file.truncate(2**33)  # a sparse file
    assert "8589934592 bytes" in load_error(folder)


def test_long_rope_scores_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """The library chooses the long factors for a whole batch if one text exceeds 300 tokens."""
    tokenizer = decoder_tokenizer()
    tokenizer.model_max_length = 1_024
    rope = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "factor": 2.0,
        "original_max_position_embeddings": 300, "short_factor": [1.0] * 4,
        "long_factor": [8.0] * 4,
    }  # fmt: skip
    torch.manual_seed(7)
    config = transformers.Qwen3Config(
        **{**sizes(tokenizer), "max_position_embeddings": 1_024, "num_labels": 1},
        rope_parameters=rope,
    )  # fmt: skip
    folder = tmp_path / "long"
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    pairs = [("who wrote faust", "Goethe wrote it"), ("who wrote faust", "he wrote " * 400)]
    with Reranker(folder, device="cpu", dtype="float32", activation="none") as reranker:
        assert reranker.engine.identity.max_length == 300
        alone = [float(reranker.score([pair])[0]) for pair in pairs]
        assert list(reranker.score(pairs)) == pytest.approx(alone, abs=1e-3)
