"""Loading of models: devices, data types, and errors for everything that is not a reranker."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.backends import hub
from rerank_plugins.backends.devices import resolve_device, resolve_dtype
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.registry import close_engines
from rerank_plugins.errors import ConfigurationError, MissingDependencyError, ModelLoadError
from tests.helpers.tiny_models import TEXTS, WIDTHS, _unigram, change_config, save_reranker

SIZES: dict[str, Any] = {**WIDTHS}
T5_SIZES: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 400,
    "num_labels": 1,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "initializer_factor": 3.0,
}


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reranker("bert", tmp_path_factory.mktemp("reranker"))


@pytest.fixture
def folder(reranker_folder: Path, tmp_path: Path) -> Path:
    """A working reranker that the test breaks."""
    return Path(shutil.copytree(reranker_folder, tmp_path / "model"))


def test_the_unchanged_folder_works(folder: Path) -> None:
    assert np.isfinite(Reranker(folder, activation="none").score([("rain", "water")])).all()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"there is no folder .*Give a folder"):
        Reranker(tmp_path / "nowhere").warm_up()
    with pytest.raises(ModelLoadError, match="there is no folder"):
        BiEncoder(tmp_path / "nowhere").warm_up()


def test_a_file_is_not_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelLoadError, match=r"there is no folder .*model\.safetensors"):
        Reranker(folder / "model.safetensors").warm_up()
    monkeypatch.chdir(folder)
    with pytest.raises(ModelLoadError, match=r"there is no folder 'config\.json'"):
        Reranker("config.json").warm_up()


@pytest.mark.parametrize("name", ["x" * 300, "a/b/c", "~no-such-user/model", "a\0b", "a b"])
def test_names_that_are_neither_folders_nor_hub_names_are_refused(name: str) -> None:
    with pytest.raises(ModelLoadError, match="there is no folder"):
        Reranker(name).warm_up()


def test_relative_and_absolute_folders_are_one_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    engine = Reranker(folder).engine
    assert Reranker(folder.name).engine is engine
    assert Reranker(f"./{folder.name}/").engine is engine
    assert Reranker(f"~/{folder.name}").engine is engine


@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
@pytest.mark.parametrize("local_files_only", [False, True])
def test_a_hub_name_without_network_fails_quickly(
    cls: type[Reranker | BiEncoder], local_files_only: bool, tmp_path: Path
) -> None:
    start = time.perf_counter()
    with pytest.raises(
        ModelLoadError, match="'no-such-owner/no-such-model' cannot be loaded"
    ) as caught:
        cls(
            "no-such-owner/no-such-model",
            local_files_only=local_files_only,
            cache_folder=tmp_path,
        ).warm_up()
    assert time.perf_counter() - start < 10
    assert "local_files_only=True" in str(caught.value)
    assert caught.value.__cause__ is not None


OTHER_MODELS: dict[str, tuple[Callable[[], transformers.PreTrainedModel], str]] = {
    "encoder": (
        lambda: transformers.BertModel(transformers.BertConfig(**SIZES)),
        r"is BertModel, not a reranker: .*Use BiEncoder",
    ),
    "masked language model": (
        lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)),
        "is BertForMaskedLM, not a reranker",
    ),
    "token classifier": (
        lambda: transformers.BertForTokenClassification(transformers.BertConfig(**SIZES)),
        "is BertForTokenClassification, not a reranker",
    ),
    "entailment": (
        lambda: transformers.BertForSequenceClassification(
            transformers.BertConfig(
                **SIZES, id2label={0: "contradiction", 1: "entailment", 2: "neutral"}
            )
        ),
        r"has 3 labels \(contradiction, entailment, neutral\): it is a classifier",
    ),
}


@pytest.mark.parametrize("kind", OTHER_MODELS)
def test_another_kind_of_model_is_refused(kind: str, folder: Path) -> None:
    make, message = OTHER_MODELS[kind]
    make().save_pretrained(folder)
    with pytest.raises(ModelLoadError, match=message):
        Reranker(folder).warm_up()


@pytest.mark.parametrize("architectures", [None, []])
def test_a_configuration_without_architectures_is_refused(
    folder: Path, architectures: list[str] | None
) -> None:
    change_config(folder, architectures=architectures)
    with pytest.raises(ModelLoadError, match="is a bert model without a head, not a reranker"):
        Reranker(folder).warm_up()


def test_missing_weights_are_refused(folder: Path) -> None:
    """Missing weights would be initialized at random."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    incomplete = {
        name: value for name, value in weights.items() if not name.startswith("classifier")
    }
    save_file(incomplete, file, metadata={"format": "pt"})
    with pytest.raises(
        ModelLoadError, match=r"lacks the weights classifier\.bias, classifier\.weight"
    ):
        Reranker(folder).warm_up()


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    change_config(folder, intermediate_size=32)
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        Reranker(folder).warm_up()


class Bomb:
    """An object whose unpickling creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
def test_pickled_weights_are_refused_without_reading_them(
    cls: type[Reranker | BiEncoder], folder: Path, tmp_path: Path
) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"bomb": Bomb(tmp_path / "marker")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="safetensors"):
        cls(folder).warm_up()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
def test_truncated_weights_are_refused(
    cls: type[Reranker | BiEncoder], keep: int, folder: Path
) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        cls(folder).warm_up()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "no-such-type"}'])
@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
def test_a_broken_configuration_is_refused(
    cls: type[Reranker | BiEncoder], text: str, folder: Path
) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        cls(folder).warm_up()


@pytest.mark.parametrize(
    "architecture", ["bert", "roberta", "xlm-roberta", "deberta", "modernbert"]
)
@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
def test_a_missing_tokenizer_is_refused(
    cls: type[Reranker | BiEncoder], architecture: str, tmp_path: Path
) -> None:
    """transformers would create one without words, which maps every text to unknown tokens."""
    folder = save_reranker(architecture, tmp_path)
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(ModelLoadError, match="tokenizer"):
        cls(folder).warm_up()


@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
@pytest.mark.parametrize("model_type", ["bert", "made-up"])
def test_code_of_a_model_is_not_run(
    cls: type[Reranker | BiEncoder], model_type: str, folder: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    source = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    (folder / "model_code.py").write_text(source)
    change_config(
        folder,
        model_type=model_type,
        auto_map={
            "AutoConfig": "model_code.CustomConfig",
            "AutoModel": "model_code.CustomModel",
            "AutoModelForSequenceClassification": "model_code.CustomModel",
        },
    )
    if model_type == "bert":  # transformers uses its own class
        cls(folder).warm_up()
    else:
        with pytest.raises(ModelLoadError, match="trust_remote_code=True"):
            cls(folder).warm_up()
    assert not marker.exists()
    assert "model_code" not in sys.modules


def test_a_module_class_of_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    source = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    (folder / "model_code.py").write_text(source)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "model_code.Custom"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelLoadError, match="trust_remote_code=True"):
        BiEncoder(folder).warm_up()
    assert not marker.exists()


@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
def test_an_unknown_backend_is_refused(cls: type[Reranker | BiEncoder]) -> None:
    with pytest.raises(ConfigurationError, match="backend is 'onyx'; allowed are auto, "):
        cls(backend="onyx").warm_up()


@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "cpu:cpu", "cuda:99", "meta"])
def test_an_unavailable_device_is_refused(cls: type[Reranker | BiEncoder], device: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device is '{device}'"):
        cls(device=device).warm_up()


@pytest.mark.parametrize("device", ["xpu", "hpu", "mps", "cuda"])
def test_an_unavailable_kind_of_accelerator_is_refused(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    if device == "xpu" and torch.xpu.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ConfigurationError, match=f"device is '{device}'.*'cpu'"):
        resolve_device(device)


@pytest.mark.parametrize(
    ("device", "cuda", "mps", "resolved"),
    [
        (None, 0, False, "cpu"),
        (None, 0, True, "mps"),
        (None, 2, False, "cuda:0"),
        ("cpu", 2, True, "cpu"),
        ("cpu:0", 0, False, "cpu"),
        ("cuda", 1, False, "cuda:0"),
        ("cuda:0", 1, False, "cuda:0"),
        ("cuda:1", 2, False, "cuda:1"),
        ("mps", 0, True, "mps"),
        ("mps:0", 0, True, "mps"),
    ],
)
def test_devices_have_canonical_names(
    device: str | None, cuda: int, mps: bool, resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device(device) == resolved


@pytest.mark.parametrize(
    ("device", "fast", "resolved"),
    [
        ("cuda:1", False, "float16"),
        ("cpu", True, "bfloat16"),
        ("cpu", False, "float32"),
        ("mps", True, "float32"),
    ],
)
def test_the_data_type_follows_the_device(
    device: str, fast: bool, resolved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[resolve_dtype.__module__]
    monkeypatch.setattr(module, "fast_bfloat16_on_cpu", lambda: fast)
    assert resolve_dtype("auto", device) == resolved
    assert resolve_dtype("float32", device) == "float32"
    assert resolve_dtype("bfloat16", device) == "bfloat16"


def test_failures_on_the_device_are_mapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        message = "CUDA out of memory"
        raise torch.OutOfMemoryError(message)

    monkeypatch.setattr(torch.nn.Module, "to", out_of_memory)
    with pytest.raises(
        ModelLoadError, match=r"on cpu in .*OutOfMemoryError: CUDA out of"
    ) as caught:
        Reranker(folder).warm_up()
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_only_max_length_limits_a_model_with_relative_positions(tmp_path: Path) -> None:
    """T5 has no position embeddings."""
    torch.manual_seed(7)
    config = transformers.T5Config(**T5_SIZES)
    transformers.T5ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = _unigram("$A </s> $B </s>")
    tokenizer.model_max_length = 10**6
    tokenizer.save_pretrained(tmp_path)
    reranker = Reranker(tmp_path, dtype="float32", activation="none", max_length=700)
    assert reranker.rank("rain", ["rain " * 2000]).stats.tokens == 700
    pairs = [(TEXTS[0], document) for document in TEXTS]
    peer = CrossEncoder(str(tmp_path), device="cpu")
    expected = peer.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    np.testing.assert_allclose(reranker.score(pairs), expected, rtol=0, atol=1e-5)


@pytest.fixture
def copied_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights file in a copy of the package with the embedded bi-encoder."""
    original = hub.bi_encoder_folder()
    package = tmp_path / hub._BI_ENCODER_PACKAGE
    shutil.copytree(original, package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, hub._BI_ENCODER_PACKAGE, raising=False)
    return package / "model" / "model.safetensors"


def test_changed_weights_of_the_embedded_bi_encoder_are_refused(copied_package: Path) -> None:
    assert hub.bi_encoder_folder() == copied_package.parent
    weights = bytearray(copied_package.read_bytes())
    weights[len(weights) // 2] ^= 1
    copied_package.write_bytes(weights)
    with pytest.raises(ModelLoadError, match=r"expected 53aa51172d142c89.*not loaded"):
        hub.bi_encoder_folder()
    close_engines()
    with pytest.raises(ModelLoadError, match="Reinstall"):
        BiEncoder().warm_up()


def test_missing_weights_of_the_embedded_bi_encoder_are_refused(copied_package: Path) -> None:
    copied_package.unlink()
    with pytest.raises(ModelLoadError, match=r"model\.safetensors is missing\. Reinstall"):
        hub.bi_encoder_folder()


def test_a_missing_package_of_the_embedded_bi_encoder_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda _: None)
    close_engines()
    with pytest.raises(MissingDependencyError, match=r"pip install \"rerank-plugins\[mini\]\""):
        BiEncoder().warm_up()


@pytest.mark.parametrize("cls", [Reranker, BiEncoder])
def test_the_embedded_models_load_offline_without_output(
    cls: type[Reranker | BiEncoder], capfd: pytest.CaptureFixture[str]
) -> None:
    """Sockets are blocked in these tests, and warnings are errors."""
    cls(max_length=79).warm_up()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("works", [True, False])
def test_loading_restores_the_logging_of_transformers(
    active: bool, works: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = transformers.utils.logging
    monkeypatch.setattr(log, "_tqdm_active", active)
    progress = sys.modules["huggingface_hub.utils.tqdm"]
    monkeypatch.setattr(progress, "HF_HUB_DISABLE_PROGRESS_BARS", not active)
    verbosity = log.get_verbosity()
    log.set_verbosity(logging.DEBUG)
    try:
        if works:
            Reranker(folder).warm_up()
        else:
            (folder / "config.json").unlink()
            with pytest.raises(ModelLoadError):
                Reranker(folder).warm_up()
        assert log.get_verbosity() == logging.DEBUG
        assert log.is_progress_bar_enabled() is active
    finally:
        log.set_verbosity(verbosity)


def test_loading_can_succeed_after_a_failure(folder: Path) -> None:
    """A model that could not be loaded is loaded after its files are fixed."""
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text("{")
    reranker = Reranker(folder)
    with pytest.raises(ModelLoadError):
        reranker.warm_up()
    (folder / "config.json").write_text(text)
    assert len(reranker.rank("rain", ["water"])) == 1


def test_max_length_is_lowered_to_the_models_maximum(folder: Path) -> None:
    change_config(folder, max_position_embeddings=512)
    identity = Reranker(folder, max_length=4096).engine.backend.identity
    assert identity.max_length == 512
    assert ModelConfig(max_length=4096).max_length == 4096


def test_a_cached_hub_model_needs_no_network(folder: Path, tmp_path: Path) -> None:
    commit = "0" * 40
    repository = tmp_path / "cache" / "models--some-owner--some-model"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    start = time.perf_counter()
    reranker = Reranker(
        "some-owner/some-model", cache_folder=tmp_path / "cache", dtype="float32", activation="none"
    )
    pairs = [(TEXTS[0], document) for document in TEXTS]
    scores = reranker.score(pairs)
    assert time.perf_counter() - start < 10
    np.testing.assert_array_equal(
        scores, Reranker(folder, dtype="float32", activation="none").score(pairs)
    )


def test_no_request_is_sent_to_the_hub_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: list[str] = []

    class Session:
        def head(self, address: str, **_: object) -> None:
            addresses.append(address)

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert hub.is_hub_reachable()
    assert len(addresses) == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not hub.is_hub_reachable()
    assert len(addresses) == 1
