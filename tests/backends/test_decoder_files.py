"""Invalid files of decoder rerankers are refused with a message that names the value."""

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
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_logit_score("qwen3", tmp_path_factory.mktemp("decoder"))


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A valid reranker, which the test damages."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def change(file: Path, **changes: Any) -> None:
    settings = json.loads(file.read_text("utf-8")) if file.exists() else {}
    file.write_text(json.dumps(settings | changes), "utf-8")


def refusal(model: Path | DecoderSpec) -> str:
    with pytest.raises(ModelLoadError) as caught, Reranker(model, device="cpu") as reranker:
        reranker.score([("a", "b")])
    return str(caught.value)


@pytest.mark.parametrize("name", ["true_token_id", "false_token_id"])
@pytest.mark.parametrize("token", [-1, 400, 10**12, True, False, 1.5, "3", "", [1]])
def test_an_answer_must_be_a_token_id(folder: Path, name: str, token: object) -> None:
    change(folder / "1_LogitScore" / "config.json", **{name: token})
    message = refusal(folder)
    assert repr(token) in message
    assert "from 0 to 399" in message or f"{name} is" in message


def test_a_reranker_without_a_yes_token_is_refused(folder: Path) -> None:
    """The logit of no alone would reverse the ranking."""
    change(folder / "1_LogitScore" / "config.json", true_token_id=None)
    assert "true_token_id is None" in refusal(folder)
    (folder / "1_LogitScore" / "config.json").unlink()
    assert "true_token_id is None" in refusal(folder)


@pytest.mark.parametrize("content", [[1], {"processing_kwargs": 3}, {"processing_kwargs": {
    "chat_template": "x"}}])  # fmt: skip
def test_template_arguments_must_be_an_object(folder: Path, content: object) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps(content))
    assert "must be an object" in refusal(folder)


@pytest.mark.parametrize("settings", [{"prompts": [1]}, {"default_prompt_name": ["search"]}])
def test_prompts_must_be_an_object_of_named_prompts(folder: Path, settings: dict[str, Any]) -> None:
    change(folder / "config_sentence_transformers.json", **settings)
    message = refusal(folder)
    assert repr(next(iter(settings.values()))) in message
    assert "default_prompt_name" in message


def test_a_template_with_lone_surrogates_is_refused(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text("{{ '\\ud800' }}" + CHAT_TEMPLATE, "utf-8")
    message = refusal(folder)
    assert "chat template" in message
    assert "surrogates not allowed" in message


@pytest.mark.parametrize("length", [0, -5, float("nan"), "x", True, None])
def test_model_max_length_must_be_a_number_of_tokens(folder: Path, length: object) -> None:
    change(folder / "tokenizer_config.json", model_max_length=length)
    if length is None:  # transformers reads it as unlimited
        with Reranker(folder, device="cpu") as reranker:
            assert reranker.score([("a", "b")]).shape == (1,)
        return
    message = refusal(folder)
    assert f"model_max_length is {length!r}" in message
    assert "at least 1" in message


def test_an_answer_without_a_token_is_refused(tmp_path: Path) -> None:
    folder = save_language_model("llama", tmp_path / "plain")
    rules = [{"type": "Replace", "pattern": {"Regex": "^(yes|no)$"}, "content": ""}]
    change(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": rules})
    assert "no token for 'yes'" in refusal(DecoderSpec(str(folder), family="qwen3"))


def test_the_number_of_heads_must_fit_the_weights(tmp_path: Path) -> None:
    """transformers creates missing weights, by the gigabyte, before it reports them."""
    folder = save_classifier("qwen3", tmp_path / "model", template=CHAT_TEMPLATE)
    weights = {
        name: tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if "self_attn" not in name
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", head_dim=200_000)
    assert "head_dim is 200000" in refusal(folder)
    change(folder / "config.json", head_dim=99_999, num_attention_heads=400)
    message = refusal(folder)
    assert "num_attention_heads times head_dim is" in message
    assert "with these weights" in message


def test_a_template_of_gigabytes_is_refused(folder: Path) -> None:
    with (folder / "chat_template.jinja").open("r+b") as file:
        file.truncate(2**33)  # a sparse file
    assert "8589934592 bytes" in refusal(folder)


def test_long_rope_scores_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """LongRoPE changes the positions of a whole batch if one text is longer than 300 tokens."""
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
        single = [float(reranker.score([pair])[0]) for pair in pairs]
        assert list(reranker.score(pairs)) == pytest.approx(single, abs=1e-3)
