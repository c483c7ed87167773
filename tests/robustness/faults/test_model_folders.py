"""Malicious model folders: an error that names the file, no code, no pickle, no hang."""

from __future__ import annotations

import base64
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.backends.hub import hub_options
from rerank_plugins.backends.tokenizer import validate_tokenizer
from rerank_plugins.config import ModelConfig
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.errors import ConfigurationError, ModelLoadError
from tests.helpers.tiny_models import change_config, save_reranker

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reranker("bert", tmp_path_factory.mktemp("saved"))


@pytest.fixture
def folder(saved_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_model, tmp_path / "model"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 10**15),
        ("num_hidden_layers", 10**9),
        ("hidden_size", -32),
        ("num_labels", 10**9),
        ("intermediate_size", 1e300),
        ("max_position_embeddings", float("nan")),
        ("partial_rotary_factor", 1e9),
        ("rotary_pct", 1.5),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_allocated(
    folder: Path, name: str, value: float
) -> None:
    change_config(folder, **{name: value})
    with pytest.raises(ModelLoadError, match=name):
        Reranker(folder).warm_up()


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 10**6, "intermediate_size": 10**6},
        {"vocab_size": 10**7},
        {"num_hidden_layers": 2_000, "intermediate_size": 10**5},
    ],
)
def test_sizes_that_contradict_the_weights_are_refused(folder: Path, sizes: dict[str, int]) -> None:
    change_config(folder, **sizes)
    with pytest.raises(ModelLoadError, match=r"times .* with these weights"):
        Reranker(folder).warm_up()


def test_compiled_code_of_the_hub_is_refused(folder: Path) -> None:
    change_config(folder, attn_implementation="somebody/kernel:attend")
    for cls in (Reranker, BiEncoder):
        with pytest.raises(ModelLoadError, match=r"somebody/kernel.*is not run"):
            cls(folder).warm_up()


@pytest.mark.parametrize(
    ("part", "rules"),
    [
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 10}),
        ("normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaa"}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}),
    ],
)
def test_a_tokenizer_that_expands_text_is_refused(
    folder: Path, part: str, rules: dict[str, Any]
) -> None:
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text("utf-8"))
    inner = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}[part]
    settings[part] = {"type": "Sequence", inner: [rules] * 40}
    file.write_text(json.dumps(settings), "utf-8")
    for cls in (Reranker, BiEncoder):
        with pytest.raises(ModelLoadError, match="times longer; at most 64 is allowed"):
            cls(folder).warm_up()


@pytest.mark.parametrize(("longest", "allowed"), [("صلى الله عليه وسلم", True), ("a" * 99, False)])
def test_a_precompiled_character_map_is_read(longest: str, *, allowed: bool) -> None:
    """The map of SentencePiece, as in XLM-RoBERTa: NFKC expands U+FDFA to 18 characters."""
    tree = b"tree" * 9
    texts = b"\0".join([b"a", longest.encode(), b"bc", b""])
    table = base64.b64encode(len(tree).to_bytes(4, "little") + tree + texts).decode()
    rules = [
        {"type": "Precompiled", "precompiled_charsmap": table},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"},
    ]
    settings = {"normalizer": {"type": "Sequence", "normalizers": rules}, "pre_tokenizer": None}
    with nullcontext() if allowed else pytest.raises(ModelLoadError, match="99 times longer"):
        validate_tokenizer(settings, "tokenizer.json")


@pytest.mark.parametrize(
    "start",
    [
        (2**63).to_bytes(8, "little"),
        (2**40).to_bytes(8, "little"),
        b"\x02\0\0\0\0\0\0\0{}",
        b'\x08\0\0\0\0\0\0\0{"a":{}}',
        b"\x05\0\0\0\0\0\0\0[1,2]",
    ],
)
def test_extra_weights_with_a_false_header_prevent_a_fingerprint(
    folder: Path, start: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with (folder / "stray.safetensors").open("wb") as file:
        file.write(start)
        file.truncate(65 * 2**20)
    reranker = Reranker(folder)
    assert reranker.engine.identity.fingerprint == ""
    assert "has no fingerprint" in caplog.text


def _save_in_hub_cache(folder: Path, cache: Path) -> None:
    """Save a model in the layout of the Hub cache."""
    repository = cache / "models--some-owner--some-model"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


@pytest.mark.parametrize("kind", ["folder", "hub"])
@pytest.mark.parametrize(
    "shard", ["../other/model.safetensors", "pytorch_model.bin", "/etc/passwd", 3]
)
def test_external_or_pickled_weights_are_refused(
    folder: Path, tmp_path: Path, kind: str, shard: object
) -> None:
    """transformers reads any file that the index of the weights names."""
    shutil.copytree(folder, tmp_path / "other")
    torch.save({"bomb": Bomb(tmp_path / "marker")}, folder / "pytorch_model.bin")
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _save_in_hub_cache(folder, tmp_path / "cache")
    model = str(folder) if kind == "folder" else "some-owner/some-model"
    for cls in (Reranker, BiEncoder):
        ranker = cls(model, cache_folder=tmp_path / "cache", local_files_only=True)
        with pytest.raises(ModelLoadError, match="no safetensors file within"):
            ranker.warm_up()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("kind", ["folder", "hub"])
@pytest.mark.parametrize("reference", ["adapter", "named", "named index"])
def test_other_references_to_a_pickle_are_refused(
    folder: Path, tmp_path: Path, kind: str, reference: str
) -> None:
    torch.save({"bomb": Bomb(tmp_path / "marker")}, folder / "adapter_model.bin")
    if reference == "adapter":
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    elif reference == "named":
        change_config(folder, transformers_weights="adapter_model.bin")
    else:
        change_config(folder, transformers_weights="x.safetensors.index.json")
        index = {"metadata": {}, "weight_map": {"a": "adapter_model.bin"}}
        (folder / "x.safetensors.index.json").write_text(json.dumps(index))
    _save_in_hub_cache(folder, tmp_path / "cache")
    model = str(folder) if kind == "folder" else "some-owner/some-model"
    for cls in (Reranker, BiEncoder):
        ranker = cls(model, cache_folder=tmp_path / "cache", local_files_only=True)
        with pytest.raises(ModelLoadError, match=r"a pickle is not read|only safetensors|no safe"):
            ranker.warm_up()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
def test_absurd_sizes_of_a_model_of_the_hub_are_refused(
    folder: Path, tmp_path: Path, cls: type[Reranker | BiEncoder]
) -> None:
    change_config(folder, num_hidden_layers=10**9)
    _save_in_hub_cache(folder, tmp_path)
    with pytest.raises(ModelLoadError, match="num_hidden_layers is 1e"):
        cls("some-owner/some-model", cache_folder=tmp_path, local_files_only=True).warm_up()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_instead_of_a_file_does_not_hang(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    for cls in (Reranker, BiEncoder):
        with pytest.raises(ModelLoadError, match=f"{name} is a pipe"):
            cls(folder).warm_up()


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "..\\other", "C:\\x", "a\0b"])
def test_modules_outside_the_folder_are_refused(folder: Path, path: str) -> None:
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": path, "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for cls in (Reranker, BiEncoder):
        with pytest.raises(ModelLoadError, match="not within the model's folder"):
            cls(folder).warm_up()


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_a_pickle_in_a_module_is_refused_and_not_read(folder: Path, tmp_path: Path) -> None:
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1", "type": "sentence_transformers.models.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1").mkdir()
    (folder / "1" / "config.json").write_text('{"in_features": 32, "out_features": 8}')
    torch.save({"bomb": Bomb(tmp_path / "marker")}, folder / "1" / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="as a pickle only"):
        BiEncoder(folder).warm_up()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_infinite_scores_is_refused(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][:] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"not finite in float32.* not served"):
        Reranker(folder, dtype="float32").warm_up()


def test_links_are_followed(folder: Path, tmp_path: Path) -> None:
    """The Hub cache consists of links; a broken link is a missing file."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in folder.iterdir():
        (linked / file.name).symlink_to(file)
    reranker = Reranker(linked, dtype="float32")
    assert np.isfinite(reranker.score([("rain", "water")])).all()
    (linked / "model.safetensors").unlink()
    (linked / "model.safetensors").symlink_to(linked / "model.safetensors")
    with pytest.raises(ModelLoadError):
        Reranker(linked, dtype="bfloat16").warm_up()


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12]])
def test_code_of_the_hub_needs_a_commit(revision: str | None) -> None:
    config = ModelConfig("owner/model", revision=revision, trust_remote_code=True)
    with pytest.raises(ConfigurationError, match="40 hexadecimal digits"):
        hub_options(config, "owner/model")
    pinned = ModelConfig(
        "owner/model", revision=COMMIT, trust_remote_code=True, local_files_only=True
    )
    assert hub_options(pinned, "owner/model")["trust_remote_code"] is True


def test_an_endless_calibrator_file_is_refused() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("needs /dev/zero")
    with pytest.raises(ConfigurationError, match="more than 67108864 bytes"):
        Calibrator.load("/dev/zero")
