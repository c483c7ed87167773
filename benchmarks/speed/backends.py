"""Start, latency and memory of each backend, and what prefix reuse saves a decoder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore

from benchmarks.clients import Size, make_requests
from benchmarks.common import ROOT, Row, make_rows, median_ratio
from rerank_plugins import DecoderSpec, Reranker
from rerank_plugins.backends.detection import QWEN3
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.types import TextPair

DECODER: Final = "random Qwen3"
_TOKENIZER: Final = ROOT / "rerank_plugins" / "models" / "mini"

# Runs in a fresh process; only the standard library is imported before the clock starts.
_COLD_START: Final = """
import json, sys, time
from pathlib import Path

def memory(name):
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))

settings, documents, repeats = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
start = time.perf_counter()
from rerank_plugins import Reranker
reranker = Reranker(device="cpu", **settings)
reranker.rank("who wrote it?", ["It rains."])
first = time.perf_counter() - start

from benchmarks.clients import make_requests
times = []
for request in make_requests(repeats, documents, "passage"):
    start = time.perf_counter()
    reranker.rank(request.query, request.documents)
    times.append(time.perf_counter() - start)
times.sort()
print(json.dumps({"first_score_s": first, "warm_ms": 1e3 * times[len(times) // 2],
                  "resident_mib": memory("VmRSS"), "peak_mib": memory("VmHWM")}))
"""


def measure_backends(
    *, documents: int = 20, repeats: int = 10, rounds: int = 3, width: int = 512, layers: int = 8
) -> list[Row]:
    """Measure each backend in fresh processes, interleaved.

    Args:
        documents: Documents of a request.
        repeats: Requests after the first.
        rounds: Processes of each backend.
        width: Width of the random decoder.
        layers: Its layers.
    """
    configurations = [
        ("mini", "torch", "float32"),
        ("mini", "openvino", "float32"),
        ("mini", "openvino", "int8"),
        ("mini", "sbert", "float32"),
    ]
    if find_spec("FlagEmbedding") is not None:
        configurations.append(("mini", "flag", "float32"))
    configurations += [(DECODER, backend, "float32") for backend in ("decoder", "sbert")]
    with TemporaryDirectory() as folder:
        decoder = str(save_decoder(Path(folder), width=width, layers=layers))
        models = {"mini": str(cross_encoder_folder()), DECODER: decoder}
        measured: dict[tuple[str, str, str], list[dict[str, float]]] = {}
        for _ in range(rounds):
            for model, backend, dtype in configurations:
                settings = {"model": models[model], "backend": backend, "dtype": dtype}
                runs = measured.setdefault((model, backend, dtype), [])
                runs.append(_start_cold(settings, documents, repeats))
    rows = []
    for (model, backend, dtype), runs in measured.items():
        metrics = {name: median(run[name] for run in runs) for name in runs[0]}
        rows += make_rows("backends", f"{backend}, {dtype}", model, metrics)
    return rows


def _start_cold(settings: dict[str, Any], documents: int, repeats: int) -> dict[str, float]:
    arguments = (json.dumps(settings), str(documents), str(repeats))
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _COLD_START, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    metrics: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return metrics


def save_decoder(folder: Path, *, width: int, layers: int) -> Path:
    """Save a random language model with the prompt of Qwen3-Reranker as its chat template.

    It has the tokenizer of the embedded model, so that texts have realistic token counts.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(_TOKENIZER)
    prompt = QWEN3.with_instruction(None)
    tokenizer.chat_template = (
        "".join(prompt.before)
        + "{{ (messages | selectattr('role', 'eq', 'query') | first).content }}"
        + "".join(prompt.between)
        + "{{ (messages | selectattr('role', 'eq', 'document') | first).content }}"
        + "".join(prompt.after)
    )
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 128),
        head_dim=64,
        max_position_embeddings=2048,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(7)
    plain = folder / "plain"
    transformers.Qwen3ForCausalLM(config).save_pretrained(plain)
    tokenizer.model_max_length = 2048
    tokenizer.save_pretrained(plain)
    yes, no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("yes", "no"))
    words = Transformer(str(plain), transformer_task="text-generation")
    model = CrossEncoder(modules=[words, LogitScore(yes, no)], device="cpu")
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


def measure_decoder(
    *,
    width: int = 512,
    layers: int = 8,
    queries: int = 6,
    documents: int = 20,
    rounds: int = 5,
    size: Size = "passage",
) -> list[Row]:
    """Time a decoder with prefix reuse, without it, and in sentence-transformers, interleaved."""
    requests = make_requests(queries, documents, size)
    pairs = [pair for request in requests for pair in request.pairs]
    with TemporaryDirectory() as folder:
        model = str(save_decoder(Path(folder), width=width, layers=layers))
        reusing, whole = (
            Reranker(
                DecoderSpec(model, prefix_reuse=reuse),
                dtype="float32",
                device="cpu",
                max_length=None,
                activation="none",
            )
            for reuse in (True, False)
        )
        peer = CrossEncoder(model, device="cpu", model_kwargs={"dtype": torch.float32})
        ours = "with prefix reuse"
        systems: dict[str, Callable[[], Any]] = {
            ours: lambda: reusing.score(pairs),
            "without prefix reuse": lambda: whole.score(pairs),
            "sentence-transformers": lambda: peer.predict(
                pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False
            ),
        }
        scores = {name: np.asarray(run()) for name, run in systems.items()}
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        for _ in range(rounds):
            for name, run in systems.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        prepared = reusing.engine.backend.prepare([TextPair(*pair) for pair in pairs])
    tokens = sum(item.tokens for item in prepared)
    about = {
        "shared_share": sum(item.payload.head for item in prepared) / tokens,
        "largest_difference": float(
            max(np.abs(scores[ours] - values).max() for values in scores.values())
        ),
        "spread_of_scores": float(np.ptp(scores[ours])),
    }
    rows = make_rows("decoder", "", DECODER, about)
    for name in list(systems)[1:]:
        metrics = {"time_ratio": median_ratio(seconds[name], seconds[ours])}
        rows += make_rows("decoder", name, DECODER, metrics)
    return rows
