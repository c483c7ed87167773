"""What a kept prefix gains: ``python -m benchmarks.decoder``.

A random decoder of Qwen3's architecture scores the documents of some queries in three ways, taking
turns: as this package does, the same without keeping what the pairs of a query begin with, and
as sentence-transformers does. Prompts are Qwen3-Reranker's; scores are compared.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
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

from benchmarks.environment import ROOT, environment
from benchmarks.load.work import Size, make_work
from rerank_plugins import DecoderModel, Reranker
from rerank_plugins.backends.families import QWEN3
from rerank_plugins.types import TextPair

_TOKENIZER: Final = Path(__file__).parents[1] / "rerank_plugins" / "models" / "mini"

OUTPUT: Final = ROOT / "benchmarks" / "results" / "decoder.json"


def save_model(folder: Path, *, width: int, layers: int) -> Path:
    """Save a random language model with a chat template that is Qwen3-Reranker's prompt.

    Its tokenizer is that of the embedded model, so that texts have their usual lengths.
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


def measure(
    *,
    width: int = 512,
    layers: int = 8,
    queries: int = 6,
    documents: int = 20,
    rounds: int = 5,
    size: Size = "passage",
) -> dict[str, Any]:
    """Time the three ways in turns and compare their scores."""
    work = make_work(queries, documents, size)
    pairs = [(one.query, document) for one in work for document in one.documents]
    with TemporaryDirectory() as folder:
        model = save_model(Path(folder), width=width, layers=layers)
        own: dict[str, Any] = {"dtype": "float32", "device": "cpu", "max_length": None}
        kept, whole = (
            Reranker(DecoderModel(str(model), prefix_reuse=reuse), **own) for reuse in (True, False)
        )
        peer = CrossEncoder(str(model), device="cpu", model_kwargs={"dtype": torch.float32})
        ways: dict[str, Callable[[], Any]] = {
            "kept_prefix": lambda: kept.score(pairs),
            "whole_prompt": lambda: whole.score(pairs),
            "sentence_transformers": lambda: peer.predict(
                pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False
            ),
        }
        scores = {name: np.asarray(way()) for name, way in ways.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
        prepared = kept.engine.backend.prepare([TextPair(*pair) for pair in pairs])
    ours = np.array(seconds["kept_prefix"])
    return {
        "environment": environment(),
        "model": {"architecture": "Qwen3", "width": width, "layers": layers, "dtype": "float32"},
        "queries": queries,
        "documents": documents,
        "tokens": int(sum(one.tokens for one in prepared)),
        "shared_tokens": int(sum(one.payload.head for one in prepared)),
        "seconds": seconds,
        "over_whole_prompt": median(np.array(seconds["whole_prompt"]) / ours),
        "over_sentence_transformers": median(np.array(seconds["sentence_transformers"]) / ours),
        "largest_difference": float(
            max(np.abs(scores["kept_prefix"] - scores[name]).max() for name in ways)
        ),
        "spread_of_scores": float(np.ptp(scores["kept_prefix"])),
    }


def main() -> None:
    """Measure, and write ``benchmarks/results/decoder.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("width", 512), ("layers", 8), ("queries", 6), ("documents", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = vars(parser.parse_args())
    output: Path = options.pop("output")
    output.write_text(json.dumps(measure(**options), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
