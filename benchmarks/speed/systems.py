"""The compared systems: this package in its configurations, and its peers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from rerank_plugins.backends import CROSS_ENCODERS
from rerank_plugins.backends.devices import fast_bfloat16_on_cpu

Scale = Literal["logit", "probability"]

BASELINE: Final = "sentence-transformers"
"""The system that all others are compared with."""


@dataclass(frozen=True)
class System:
    """A system that scores pairs.

    Attributes:
        title: Its name in the results.
        target: The name of its class in :mod:`benchmarks.speed.peers`.
        settings: Keyword arguments of that class.
        packages: Distributions whose versions are recorded.
        environment: Its environment, a file in ``requirements``; None is this one.
        dtype: Data type; None is float32 on a CPU and float16 on CUDA.
        devices: The devices it supports.
        scale: The scale of its scores, as it is used here.
        core: Whether it takes part in the cells for few systems.
    """

    title: str
    target: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    environment: str | None = None
    dtype: str | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")
    scale: Scale = "logit"
    core: bool = False

    def dtype_on(self, device: str) -> str:
        """Return the data type that it computes in on a device."""
        return self.dtype or ("float16" if device.startswith("cuda") else "float32")


SYSTEMS: Final[Mapping[str, System]] = {
    "ours": System("rerank_plugins, torch", "Ours", packages=("torch",), core=True),
    "ours-bfloat16": System(
        "rerank_plugins, torch bfloat16",
        "Ours",
        dtype="bfloat16",
        core=True,
    ),
    "ours-openvino": System(
        "rerank_plugins, OpenVINO float32",
        "Ours",
        {"backend": "openvino"},
        ("openvino",),
        dtype="float32",
        devices=("cpu",),
        core=True,
    ),
    "ours-openvino-int8": System(
        "rerank_plugins, OpenVINO int8",
        "Ours",
        {"backend": "openvino"},
        ("openvino",),
        dtype="int8",
        devices=("cpu",),
        core=True,
    ),
    "ours-langchain": System(
        "rerank_plugins through LangChain, torch",
        "OursLangChain",
        packages=("langchain-core",),
        scale="probability",
    ),
    "ours-llama-index": System(
        "rerank_plugins through LlamaIndex, torch",
        "OursLlamaIndex",
        packages=("llama-index-core",),
        scale="probability",
    ),
    BASELINE: System(
        "sentence-transformers CrossEncoder",
        "SentenceTransformers",
        packages=("sentence-transformers", "transformers", "torch"),
        core=True,
    ),
    "sentence-transformers-float32": System(
        "sentence-transformers CrossEncoder, float32",
        "SentenceTransformers",
        packages=("sentence-transformers",),
        dtype="float32",
        devices=("cuda",),
        core=True,
    ),
    "sentence-transformers-openvino": System(
        "sentence-transformers CrossEncoder, OpenVINO",
        "SentenceTransformers",
        {"backend": "openvino"},
        ("sentence-transformers", "transformers", "optimum-intel", "openvino"),
        "openvino",
        dtype="float32",
        devices=("cpu",),
    ),
    "flag": System(
        "FlagEmbedding FlagReranker",
        "FlagEmbedding",
        packages=("FlagEmbedding",),
        environment="peers",
    ),
    "langchain": System(
        "LangChain CrossEncoderReranker",
        "LangChain",
        packages=("langchain-classic", "langchain-community"),
        environment="peers",
        scale="probability",
    ),
    "llama-index": System(
        "LlamaIndex SentenceTransformerRerank",
        "LlamaIndex",
        {"over": "sentence-transformers"},
        ("llama-index-postprocessor-sbert-rerank",),
        "peers",
        scale="probability",
    ),
    "llama-index-flag": System(
        "LlamaIndex FlagEmbeddingReranker",
        "LlamaIndex",
        {"over": "flag"},
        ("llama-index-postprocessor-flag-embedding-reranker", "FlagEmbedding"),
        "peers",
    ),
    "rerankers": System(
        "rerankers (AnswerDotAI)",
        "Rerankers",
        packages=("rerankers",),
        environment="peers",
    ),
    "infinity": System(
        "Infinity server",
        "Infinity",
        packages=("infinity-emb", "transformers"),
        environment="infinity",
    ),
    "flashrank": System(
        "FlashRank (ONNX)",
        "FlashRank",
        packages=("FlashRank", "onnxruntime"),
        environment="flashrank",
        dtype="float32",
        devices=("cpu",),
        scale="probability",
    ),
}


def reference(device: str) -> str:
    """Return the system whose scores are the reference: sentence-transformers in float32."""
    return "sentence-transformers-float32" if device.startswith("cuda") else BASELINE


def interpreter(system: System, environments: Path | None) -> Path:
    """Return the Python of a system's environment."""
    if system.environment is None:
        return Path(sys.executable)
    return (environments or Path()) / system.environment / "bin" / "python"


def obstacle(
    system: System, device: str, environments: Path | None, *, slow: bool = False
) -> str | None:
    """Return why a system cannot be timed here, or None.

    Args:
        system: The system.
        device: The device.
        environments: Folder of the built environments.
        slow: Whether to time a data type that this CPU only emulates.
    """
    kind = device.partition(":")[0]
    if kind not in system.devices:
        return f"does not run on {kind}"
    if system.environment and not (environments and interpreter(system, environments).is_file()):
        return f"its environment {system.environment!r} is not built"
    if system.dtype == "bfloat16" and kind == "cpu" and not (slow or fast_bfloat16_on_cpu()):
        return "this CPU has no bfloat16 arithmetic; --slow times the emulation"
    backend = system.settings.get("backend", "torch")
    if system.environment is None and backend != "torch":
        if backend not in CROSS_ENCODERS:
            return f"this version has no backend {backend!r}"
        if find_spec(backend) is None:
            return f"the package {backend} is not installed"
    return None
