"""Invalid folders of decoder rerankers; see :mod:`test_model_folders`.

In addition to the files of encoders, these have settings of a language model, a chat template for
the prompt, and answer tokens whose logits become the score.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import strategies as st

from tests.helpers.tiny_decoders import (
    CHAT_TEMPLATE,
    save_classifier,
    save_language_model,
    save_logit_score,
)  # fmt: skip
from tests.helpers.tiny_models import save_reranker
from tests.robustness.fuzz.folders import Loader, load_changed
from tests.robustness.fuzz.fuzz_budget import fuzz
from tests.robustness.fuzz.model_files import rules, sizes, weights
from tests.robustness.fuzz.mutations import any_json, changed, damaged, encoded

_home = Path(tempfile.mkdtemp(prefix="fuzzed-decoders-"))
save_logit_score("qwen2", _home / "made")
SOUND: Final = {
    "cross-encoder": save_classifier("qwen3", _home / "chat", template=CHAT_TEMPLATE),
    "auto": Path(shutil.move(_home / "made" / "model", _home / "answers")),
    "qwen3": save_language_model("llama", _home / "named"),
    "gemma": save_language_model("gemma", _home / "parts"),
}
"""Valid models: chat template with one logit, sentence-transformers modules, two families."""

NAMES: Final = (
    "head_dim", "rope_parameters", "rope_scaling", "layer_types", "sliding_window", "is_causal",
    "use_sliding_window", "use_bidirectional_attention", "num_key_value_heads", "rope_theta",
    "final_logit_softcapping", "attn_logit_softcapping", "query_pre_attn_scalar", "is_decoder",
    "tie_word_embeddings", "attention_bias", "mlp_bias", "architectures", "model_type",
    "num_labels", "id2label", "text_config", "partial_rotary_factor", "quantization_config",
    "attn_implementation", "pretraining_tp", "original_max_position_embeddings", "auto_map",
)  # fmt: skip
SIZES: Final = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim",
    "num_key_value_heads", "intermediate_size", "max_position_embeddings", "num_labels",
    "sliding_window", "max_window_layers", "rms_norm_eps", "pad_token_id", "bos_token_id",
)  # fmt: skip
ROPES: Final = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "")


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    outside = save_reranker("bert", _home / "outside")
    child = Loader(SOUND, outside)
    yield child
    child.close()
    shutil.rmtree(_home, ignore_errors=True)


def load(loader: Loader, kind: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Load a copy of a valid model with some files replaced or added."""
    return load_changed(loader, SOUND[kind], files, kind)


def settings(kind: str, name: str) -> Any:
    """Return the content of a file of a valid model."""
    return json.loads((SOUND[kind] / name).read_bytes())


kinds = st.sampled_from(sorted(SOUND))


@st.composite
def ropes(draw: st.DrawFn, config: dict[str, Any]) -> dict[str, Any]:
    """Draw a configuration with other rotary position embeddings."""
    number = st.sampled_from([None, 0, 1, 2, 4.0, 64, 1e9, -1, float("nan"), [1.0] * 4, [4.0] * 4])
    names = (
        "rope_theta", "factor", "original_max_position_embeddings", "attention_factor",
        "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "short_factor",
        "long_factor", "partial_rotary_factor", "mscale",
    )  # fmt: skip
    parameters: dict[str, Any] = draw(st.dictionaries(st.sampled_from(names), number, max_size=8))
    parameters["rope_type"] = draw(st.sampled_from(ROPES))
    where = draw(st.sampled_from(["rope_parameters", "rope_scaling"]))
    return {**config, where: {"rope_theta": 10_000.0, **parameters}}


@st.composite
def configs(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw a kind and an invalid configuration of it."""
    kind = draw(kinds)
    sound = settings(kind, "config.json")
    values = changed(sound, NAMES) | sizes(sound, SIZES) | ropes(sound) | any_json
    return kind, draw(values.map(encoded) | damaged(encoded(sound)))


@fuzz(few=0, many=250, drawn=configs())
def test_any_config_of_a_decoder(loader: Loader, drawn: tuple[str, bytes]) -> None:
    kind, content = drawn
    load(loader, kind, {"config.json": content})


TOKENIZER_NAMES: Final = (
    "tokenizer_class", "chat_template", "extra_special_tokens", "added_tokens_decoder",
    "model_max_length", "bos_token", "pad_token", "eos_token", "add_bos_token", "padding_side",
)  # fmt: skip


@st.composite
def tokenizers(draw: st.DrawFn) -> tuple[str, dict[str, bytes]]:
    """Draw a kind and an invalid tokenizer of it."""
    kind = draw(kinds)
    name = draw(st.sampled_from(["tokenizer.json", "tokenizer.json", "tokenizer_config.json"]))
    sound = settings(kind, name)
    if name == "tokenizer_config.json":
        return kind, {name: encoded(draw(changed(sound, TOKENIZER_NAMES)))}
    contents = (changed(sound) | rules(sound)).map(encoded)
    return kind, {name: draw(contents | damaged(encoded(sound)))}


@fuzz(few=0, many=150, drawn=tokenizers())
def test_any_tokenizer_of_a_decoder(loader: Loader, drawn: tuple[str, dict[str, bytes]]) -> None:
    load(loader, *drawn)


PIECES: Final = (
    "", "", " ", "\n", "<|im_start|>user\n", "<|im_end|>", "yes", "e", "\u0301", "\0", "x" * 3_000,
    "\u202e", "{{ '\\ud800' }}", "{{ messages|length }}", "{{ strftime_now('%f') }}",
    "{{ ''.__class__.__mro__ }}", "{% include '/etc/passwd' %}", "{{ raise_exception('no') }}",
    "{% for _ in range(30000) %}ab {% endfor %}", "{{ [1, 2, 3]|random }}", "{{ bos_token }}",
    "{{ messages[0].role }}", "{% generation %}a{% endgeneration %}", "{{ self }}", "{% if", "{#",
)  # fmt: skip
"""Without nested loops: the time of a template is not limited (SECURITY.md)."""
TEXTS: Final = (
    "{{ messages[-2].content }}", "{{ messages[-1].content }}", "{{ messages[-1]['content'] }}",
    "{{ messages[-2].content|trim }}", "{{ messages[-1].content|upper }}", "{{ messages }}", "",
)  # fmt: skip


@st.composite
def templates(draw: st.DrawFn) -> bytes:
    """Draw a chat template: query and document with text around them, mostly in this order."""
    piece = st.sampled_from(PIECES) | st.text(st.characters(codec="utf-8"), max_size=5)
    query, document = (
        draw(st.sampled_from([TEXTS[:2]] * 4 + [TEXTS[1::-1]]))
        if draw(st.booleans())
        else (draw(st.sampled_from(TEXTS)), draw(st.sampled_from(TEXTS)))
    )
    return "".join([draw(piece), query, draw(piece), document, draw(piece)]).encode()


PROMPTS: Final = (
    "modules.json", "1_LogitScore/config.json", "config_sentence_transformers.json",
    "sentence_bert_config.json",
)  # fmt: skip
OTHERS: Final = (
    "path", "type", "true_token_id", "false_token_id", "processing_kwargs", "prompts",
    "default_prompt_name", "transformer_task", "model_type",
)  # fmt: skip
ARGUMENTS: Final = {
    "add_generation_prompt": True, "chat_template": CHAT_TEMPLATE, "tools": None,
    "continue_final_message": False, "enable_thinking": False,
}  # fmt: skip


@st.composite
def prompts(draw: st.DrawFn) -> tuple[str, dict[str, bytes]]:
    """Draw a kind and files with an invalid prompt or invalid answer tokens."""
    files = {}
    if draw(st.booleans()):
        files["chat_template.jinja"] = draw(templates() | damaged(CHAT_TEMPLATE.encode()))
        kind = draw(st.sampled_from(["auto", "cross-encoder"]))
        if kind == "cross-encoder":
            return kind, files
    transformer = settings("auto", "sentence_bert_config.json")
    transformer["processing_kwargs"] = {
        "chat_template": draw(changed(ARGUMENTS, ("tokenize", "documents")))
    }
    files["sentence_bert_config.json"] = encoded(transformer)
    name = draw(st.sampled_from(PROMPTS))
    files[name] = encoded(draw(changed(settings("auto", name), OTHERS) | any_json))
    return "auto", files


@fuzz(few=0, many=250, drawn=prompts())
def test_any_prompt_of_a_decoder(loader: Loader, drawn: tuple[str, dict[str, bytes]]) -> None:
    answer = load(loader, *drawn)
    assert "root:" not in answer.get("message", "")


@fuzz(
    few=0, many=150,
    drawn=kinds.flatmap(
        lambda kind: st.tuples(
            st.just(kind), weights((SOUND[kind] / "model.safetensors").read_bytes())
        )
    ),
)  # fmt: skip
def test_any_weights_of_a_decoder(loader: Loader, drawn: tuple[str, bytes]) -> None:
    kind, content = drawn
    load(loader, kind, {"model.safetensors": content})
