"""Reference scores of Qwen3-Reranker and mxbai-rerank-v2: the code of their model cards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rerank_plugins.types import FloatArray

QWEN3_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
QWEN3_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
MXBAI_PREFIX = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\n"
)
MXBAI_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For "
    "each query-document pair, carefully analyze the semantic relationship between them, then "
    "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def prompted_scores(
    family: str,
    folder: Path,
    pairs: Sequence[tuple[str, str]],
    instruction: str = INSTRUCTION,
) -> FloatArray:
    """Return the log odds of yes against no.

    Each pair is computed alone, with logits of the whole vocabulary.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def qwen3(query: str, document: str) -> list[int]:
        body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
        return ids(QWEN3_PREFIX) + ids(body) + ids(QWEN3_SUFFIX)

    def mxbai(query: str, document: str) -> list[int]:
        texts = ids(f"query: {query}") + ids("\n") + ids(f"document: {document}")
        task = ids("\n") + ids(MXBAI_TASK)
        return ids(MXBAI_PREFIX) + texts + task + ids(MXBAI_SUFFIX)

    prompt_ids: Any = {"qwen3": qwen3, "mxbai": mxbai}[family]
    yes, no = {"qwen3": ("yes", "no"), "mxbai": ("1", "0")}[family]
    scores = []
    with torch.inference_mode():
        for query, document in pairs:
            logits = model(input_ids=torch.tensor([prompt_ids(query, document)])).logits[0, -1]
            scores.append(float(logits[ids(yes)[0]] - logits[ids(no)[0]]))
    return np.asarray(scores, dtype=np.float32)
