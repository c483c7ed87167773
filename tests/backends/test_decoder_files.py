"""A decoder's own files: what is wrong in them is named, and never read as something else."""

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
    """A working reranker, to be broken by the test."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def change(file: Path, **changes: Any) -> None:
    known = json.loads(file.read_text("utf-8")) if file.exists() else {}
    file.write_text(json.dumps(known | changes), "utf-8")


def refusal(model: Path | DecoderSpec) -> str:
    with pytest.raises(ModelLoadError) as caught, Reranker(model, device="cpu") as reranker:
        reranker.score([("a", "b")])
    return str(caught.value)


@pytest.mark.parametrize("name", ["true_token_id", "false_token_id"])
@pytest.mark.parametrize("token", [-1, 400, 10**12, True, False, 1.5, "3", "", [1]])
def test_an_answer_is_the_id_of_a_token(folder: Path, name: str, token: object) -> None:
    change(folder / "1_LogitScore" / "config.json", **{name: token})
    said = refusal(folder)
    assert repr(token) in said
    assert "from 0 to 399" in said or f"{name} is" in said


def test_a_reranker_without_yes_is_refused(folder: Path) -> None:
    """The logit of no alone would turn the ranking round."""
    change(folder / "1_LogitScore" / "config.json", true_token_id=None)
    assert "true_token_id is None" in refusal(folder)
    (folder / "1_LogitScore" / "config.json").unlink()
    assert "true_token_id is None" in refusal(folder)


@pytest.mark.parametrize("own", [[1], {"processing_kwargs": 3}, {"processing_kwargs": {
    "chat_template": "x"}}])  # fmt: skip
def test_arguments_of_a_template_are_an_object(folder: Path, own: object) -> None:
    (folder / "sentence_bert_config.json").write_text(json.dumps(own))
    assert "must be an object" in refusal(folder)


@pytest.mark.parametrize("own", [{"prompts": [1]}, {"default_prompt_name": ["search"]}])
def test_prompts_are_known_by_their_names(folder: Path, own: dict[str, Any]) -> None:
    change(folder / "config_sentence_transformers.json", **own)
    said = refusal(folder)
    assert repr(next(iter(own.values()))) in said
    assert "default_prompt_name" in said


def test_a_prompt_that_no_tokenizer_reads_is_named(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text("{{ '\\ud800' }}" + CHAT_TEMPLATE, "utf-8")
    said = refusal(folder)
    assert "chat template" in said
    assert "surrogates not allowed" in said


@pytest.mark.parametrize("most", [0, -5, float("nan"), "x", True, None])
def test_a_reach_is_a_number_of_tokens(folder: Path, most: object) -> None:
    change(folder / "tokenizer_config.json", model_max_length=most)
    if most is None:  # transformers' own way to say that there is no bound
        with Reranker(folder, device="cpu") as reranker:
            assert reranker.score([("a", "b")]).shape == (1,)
        return
    said = refusal(folder)
    assert f"model_max_length is {most!r}" in said
    assert "at least 1" in said


def test_an_answer_without_a_token_is_named(tmp_path: Path) -> None:
    folder = save_language_model("llama", tmp_path / "plain")
    rules = [{"type": "Replace", "pattern": {"Regex": "^(yes|no)$"}, "content": ""}]
    change(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": rules})
    assert "no token for 'yes'" in refusal(DecoderSpec(str(folder), family="qwen3"))


def test_heads_are_in_proportion_to_the_weights(tmp_path: Path) -> None:
    """Weights that are not there are made, before somebody notices: by the gigabyte."""
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
    said = refusal(folder)
    assert "num_attention_heads times head_dim is" in said
    assert "with these weights" in said


def test_a_template_of_gigabytes_is_not_read(folder: Path) -> None:
    with (folder / "chat_template.jinja").open("r+b") as file:
        file.truncate(2**33)  # takes no room on the disk
    assert "8589934592 bytes" in refusal(folder)


def test_long_rope_scores_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """It counts all texts of a batch otherwise, as soon as one is longer than 300 tokens."""
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
    with Reranker(folder, device="cpu", dtype="float32") as reranker:
        assert reranker.engine.identity.max_length == 300
        alone = [float(reranker.score([pair])[0]) for pair in pairs]
        assert list(reranker.score(pairs)) == pytest.approx(alone, abs=1e-3)
