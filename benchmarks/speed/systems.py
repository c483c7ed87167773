"""Who is timed: this package in all its ways, and its peers."""

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
"""Everybody's speed is a ratio to this one."""


@dataclass(frozen=True)
class System:
    """One way to score pairs.

    Attributes:
        title: What the tables call it.
        target: Its class in :mod:`benchmarks.speed.peers`, as ``module:class``.
        settings: Keyword arguments of that class.
        packages: Distributions whose versions are recorded.
        environment: Which of :mod:`benchmarks.speed.environments` has it; None is our own.
        dtype: Data type; None is the usual one of the device.
        devices: Where it runs.
        scale: What its scores are, as it is used here.
        core: Whether it is also timed where only a few are.
        exact: Whether its scores should be those of float32.
        note: What differs from the others, and why.
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
    exact: bool = True
    note: str = ""

    def dtype_on(self, device: str) -> str:
        """Return the data type that it computes in there."""
        return self.dtype or ("float16" if device.startswith("cuda") else "float32")


_SIGMOID: Final = "gives the sigmoid of the logit"

SYSTEMS: Final[Mapping[str, System]] = {
    "ours": System("rerank_plugins, torch", "ours:Ours", packages=("torch",), core=True),
    "ours-bfloat16": System(
        "rerank_plugins, torch bfloat16",
        "ours:Ours",
        dtype="bfloat16",
        core=True,
        exact=False,
        note="rounds to bfloat16",
    ),
    "ours-openvino": System(
        "rerank_plugins, OpenVINO float32",
        "ours:Ours",
        {"backend": "openvino"},
        ("openvino",),
        dtype="float32",
        devices=("cpu",),
        core=True,
    ),
    "ours-openvino-int8": System(
        "rerank_plugins, OpenVINO int8",
        "ours:Ours",
        {"backend": "openvino"},
        ("openvino",),
        dtype="int8",
        devices=("cpu",),
        core=True,
        exact=False,
        note="rounds to 8-bit integers",
    ),
    "ours-langchain": System(
        "rerank_plugins through LangChain, torch",
        "ours:LangChain",
        packages=("langchain-core",),
        scale="probability",
        note=_SIGMOID,
    ),
    "ours-llama-index": System(
        "rerank_plugins through LlamaIndex, torch",
        "ours:LlamaIndex",
        packages=("llama-index-core",),
        scale="probability",
        note=_SIGMOID,
    ),
    BASELINE: System(
        "sentence-transformers CrossEncoder",
        "sentence_transformers:SentenceTransformers",
        packages=("sentence-transformers", "transformers", "torch"),
        core=True,
    ),
    "sentence-transformers-float32": System(
        "sentence-transformers CrossEncoder, float32",
        "sentence_transformers:SentenceTransformers",
        packages=("sentence-transformers",),
        dtype="float32",
        devices=("cuda",),
        core=True,
    ),
    "sentence-transformers-openvino": System(
        "sentence-transformers CrossEncoder, OpenVINO",
        "sentence_transformers:SentenceTransformers",
        {"backend": "openvino"},
        ("sentence-transformers", "transformers", "optimum-intel", "openvino"),
        "openvino",
        dtype="float32",
        devices=("cpu",),
    ),
    "flag": System(
        "FlagEmbedding FlagReranker", "flag:Flag", packages=("FlagEmbedding",), environment="peers"
    ),
    "langchain": System(
        "LangChain CrossEncoderReranker",
        "langchain:LangChain",
        packages=("langchain-classic", "langchain-community"),
        environment="peers",
        scale="probability",
        note=_SIGMOID,
    ),
    "llama-index": System(
        "LlamaIndex SentenceTransformerRerank",
        "llama_index:LlamaIndex",
        {"over": "sentence-transformers"},
        ("llama-index-postprocessor-sbert-rerank",),
        "peers",
        scale="probability",
        note=_SIGMOID,
    ),
    "llama-index-flag": System(
        "LlamaIndex FlagEmbeddingReranker",
        "llama_index:LlamaIndex",
        {"over": "flag"},
        ("llama-index-postprocessor-flag-embedding-reranker", "FlagEmbedding"),
        "peers",
    ),
    "rerankers": System(
        "rerankers (AnswerDotAI)",
        "rerankers:Rerankers",
        packages=("rerankers",),
        environment="peers",
    ),
    "infinity": System(
        "Infinity server",
        "infinity:Infinity",
        packages=("infinity-emb", "transformers"),
        environment="infinity",
    ),
    "flashrank": System(
        "FlashRank (ONNX)",
        "flashrank:FlashRank",
        packages=("FlashRank", "onnxruntime"),
        environment="flashrank",
        dtype="float32",
        devices=("cpu",),
        scale="probability",
        note=_SIGMOID,
    ),
}


def reference(device: str) -> str:
    """Return the system whose scores are the right ones: float32."""
    return "sentence-transformers-float32" if device.startswith("cuda") else BASELINE


def interpreter(system: System, environments: Path | None) -> Path:
    """Return the Python that has a system."""
    if system.environment is None:
        return Path(sys.executable)
    return (environments or Path()) / system.environment / "bin" / "python"


def obstacle(
    system: System, device: str, environments: Path | None, *, slow: bool = False
) -> str | None:
    """Return why a system cannot be timed here, or None.

    Args:
        system: The system.
        device: Where it would run.
        environments: Folder of the built environments.
        slow: Whether to time arithmetic that this CPU has to emulate.
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
