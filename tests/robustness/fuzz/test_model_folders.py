"""Invalid model folders: a clear error or finite scores.

Each folder is loaded in a process with limited memory, which must open neither a file outside of
the folder nor a pickle.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import strategies as st

from tests.helpers.tiny_models import save_reranker
from tests.robustness.fuzz.folders import Loader, load_changed
from tests.robustness.fuzz.fuzz_budget import fuzz
from tests.robustness.fuzz.model_files import header_of, rules, sizes, weights
from tests.robustness.fuzz.mutations import any_json, changed, damaged, encoded, unusual

_home = Path(tempfile.mkdtemp(prefix="fuzzed-models-"))
SOUND: Final = save_reranker("bert", _home / "sound")
SETTINGS: Final = {
    name: json.loads((SOUND / name).read_bytes())
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
}
WEIGHTS: Final = (SOUND / "model.safetensors").read_bytes()
HEADER: Final = header_of(WEIGHTS)

CONFIG_NAMES: Final = (
    "attn_implementation", "auto_map", "quantization_config", "torch_dtype", "dtype",
    "num_labels", "id2label", "embedding_size", "pruned_heads", "tie_word_embeddings",
    "model_type", "architectures", "_name_or_path", "rope_scaling", "chunk_size_feed_forward",
    "problem_type", "adapters", "transformers_weights", "base_model_tp_plan", "text_config",
)  # fmt: skip
TOKENIZER_NAMES: Final = (
    "tokenizer_class", "auto_map", "vocab_file", "tokenizer_file", "extra_special_tokens",
    "added_tokens_decoder", "chat_template", "truncation_side", "model_max_length", "gguf_file",
)  # fmt: skip
MODULES: Final = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]
POOLING: Final = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
DENSE: Final = {
    "in_features": 32, "out_features": 1, "bias": True, "module_output_name": "scores",
    "activation_function": "torch.nn.modules.linear.Identity",
}  # fmt: skip
SENTENCE_TRANSFORMERS: Final = {
    "model_type": "CrossEncoder", "prompts": {"query": "q: "}, "default_prompt_name": None,
    "similarity_fn_name": "cosine", "__version__": {"sentence_transformers": "6.0"},
}  # fmt: skip
ADAPTER: Final = {
    "peft_type": "LORA", "base_model_name_or_path": "../outside", "r": 4, "lora_alpha": 8,
    "target_modules": ["query"], "task_type": "SEQ_CLS", "auto_mapping": None,
}  # fmt: skip
INDEX: Final = {
    "metadata": {"total_size": 1},
    "weight_map": dict.fromkeys(
        [name for name in HEADER if name != "__metadata__"], "model-00001.safetensors"
    ),
}
SHARDS: Final = (
    "model-00001.safetensors", "../outside/model.safetensors", "../outside/pytorch_model.bin",
    str(_home / "outside" / "model.safetensors"), "pytorch_model.bin", "/dev/zero", "", "..",
    "a/../../outside/model.safetensors", "model-00001.safetensors\0", None, 3,
)  # fmt: skip


@pytest.fixture(scope="module")
def loader() -> Iterator[Loader]:
    outside = _home / "outside"
    shutil.copytree(SOUND, outside)
    (outside / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": 1}))
    child = Loader({"cross-encoder": SOUND, "bi-encoder": SOUND}, outside)
    yield child
    child.close()
    shutil.rmtree(_home, ignore_errors=True)


def load(loader: Loader, files: dict[str, bytes], kind: str = "cross-encoder") -> dict[str, Any]:
    """Load a copy of the valid model with some files replaced or added."""
    return load_changed(loader, SOUND, files, kind)


SIZES: Final = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size", "num_labels", "pad_token_id", "layer_norm_eps",
)  # fmt: skip
kinds = st.sampled_from(["cross-encoder", "bi-encoder"])


@fuzz(
    few=0, many=200, kind=kinds,
    content=changed(SETTINGS["config.json"], CONFIG_NAMES).map(encoded)
    | sizes(SETTINGS["config.json"], SIZES).map(encoded)
    | damaged((SOUND / "config.json").read_bytes()) | any_json.map(encoded),
)  # fmt: skip
def test_any_config_is_refused_or_right(loader: Loader, kind: str, content: bytes) -> None:
    load(loader, {"config.json": content}, kind)


@fuzz(
    few=0, many=120, kind=kinds,
    content=changed(SETTINGS["tokenizer.json"]).map(encoded)
    | rules(SETTINGS["tokenizer.json"]).map(encoded)
    | damaged((SOUND / "tokenizer.json").read_bytes()),
)  # fmt: skip
def test_any_tokenizer_is_refused_or_right(loader: Loader, kind: str, content: bytes) -> None:
    load(loader, {"tokenizer.json": content}, kind)


@fuzz(
    few=0, many=100, kind=kinds,
    content=changed(SETTINGS["tokenizer_config.json"], TOKENIZER_NAMES).map(encoded)
    | any_json.map(encoded),
)  # fmt: skip
def test_any_settings_of_a_tokenizer(loader: Loader, kind: str, content: bytes) -> None:
    load(loader, {"tokenizer_config.json": content}, kind)


@fuzz(few=0, many=250, kind=kinds, content=weights(WEIGHTS))
def test_any_weights_are_refused_or_right(loader: Loader, kind: str, content: bytes) -> None:
    load(loader, {"model.safetensors": content}, kind)


@st.composite
def modules(draw: st.DrawFn) -> dict[str, bytes]:
    """Draw a model of sentence-transformers modules with one invalid file."""
    files = {
        "modules.json": MODULES,
        "1_Pooling/config.json": POOLING,
        "2_Dense/config.json": DENSE,
        "config_sentence_transformers.json": SENTENCE_TRANSFORMERS,
        "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
    }
    names = ("path", "type", "max_seq_length", "default_prompt_name", "in_features", "pooling_mode")
    name = draw(st.sampled_from(sorted(files)))
    files[name] = draw(changed(files[name], names) | any_json)
    return {name: encoded(content) for name, content in files.items()}


@fuzz(few=0, many=150, kind=kinds, files=modules())
def test_any_modules_are_refused_or_right(
    loader: Loader, kind: str, files: dict[str, bytes]
) -> None:
    load(loader, files, kind)


@fuzz(
    few=0, many=100,
    files=st.fixed_dictionaries(
        {},
        optional={
            "adapter_config.json": changed(ADAPTER, ("base_model_name_or_path",)).map(encoded),
            "adapter_model.bin": st.just(pickle.dumps({"a": 1})),
            "config.json": st.sampled_from(
                ["adapter_model.bin", "x.safetensors.index.json", "../outside/model.safetensors"]
            ).map(
                lambda file: encoded({**SETTINGS["config.json"], "transformers_weights": file})
            ),
            "x.safetensors.index.json": st.sampled_from(SHARDS).map(
                lambda shard: encoded({"metadata": {}, "weight_map": dict.fromkeys(HEADER, shard)})
            ),
            "pytorch_model.bin": st.just(pickle.dumps({"a": 1})),
            "model.safetensors.index.json": changed(INDEX).map(encoded) | any_json.map(encoded),
            "generation_config.json": any_json.map(encoded),
            "special_tokens_map.json": any_json.map(encoded),
            "added_tokens.json": any_json.map(encoded),
            "preprocessor_config.json": any_json.map(encoded),
        },
    ),
)  # fmt: skip
def test_other_files_of_a_model_do_no_harm(loader: Loader, files: dict[str, bytes]) -> None:
    load(loader, files)


@fuzz(few=0, many=60, shard=st.sampled_from(SHARDS) | unusual, all_of_them=st.booleans())
def test_shards_are_read_from_the_folder_only(
    loader: Loader, shard: Any, *, all_of_them: bool
) -> None:
    index = json.loads(json.dumps(INDEX))
    for name in index["weight_map"] if all_of_them else [next(iter(index["weight_map"]))]:
        index["weight_map"][name] = shard
    folder = Path(tempfile.mkdtemp(dir=_home))
    try:
        shutil.copytree(SOUND, folder, dirs_exist_ok=True)
        (folder / "model.safetensors").rename(folder / "model-00001.safetensors")
        (folder / "model.safetensors.index.json").write_bytes(encoded(index))
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
        answer = loader.load(folder)
        assert "values" not in answer or shard == "model-00001.safetensors"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


LINKS: Final = ("/dev/zero", "/dev/null", "/proc/self/environ", "/etc/passwd", ".", "..", "itself")


@fuzz(
    few=0, many=60, target=st.sampled_from(LINKS),
    name=st.sampled_from(
        ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
         "modules.json", "vocab.txt", "special_tokens_map.json"]
    ),
)  # fmt: skip
def test_links_are_read_as_what_they_are_called(loader: Loader, name: str, target: str) -> None:
    """Links are followed, because the Hub cache consists of them, and do no harm."""
    folder = Path(tempfile.mkdtemp(dir=_home))
    try:
        shutil.copytree(SOUND, folder, dirs_exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        os.symlink(name if target == "itself" else target, folder / name)
        answer = loader.load(folder)
        assert "root:" not in answer.get("message", "")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
