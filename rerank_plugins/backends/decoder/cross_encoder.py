"""The decoder cross-encoder: a language model's logits of yes and no."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import torch

from rerank_plugins.backends.decoder.loading import LastTokenScorer, LoadedDecoder, load_decoder
from rerank_plugins.backends.devices import LocalModel, mapped_out_of_memory, resolve_local
from rerank_plugins.backends.model_specs import DecoderSpec
from rerank_plugins.backends.torch.tokenization import PairTokenizerMixin
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray, ScoreScale, TextPair

_log = logging.getLogger(__name__)

_PROBES: Final = tuple(
    TextPair("who wrote it", document) for document in ("", "he", "she " * 40, "\n it was  ")
)


def resolve_decoder(config: ModelConfig) -> ModelConfig:
    """Choose device and data type; on CUDA bfloat16, in which decoders are published.

    Float16 overflows in some of them (Gemma).
    """
    resolved = resolve_local(config)
    if config.dtype == "auto" and str(resolved.device).startswith("cuda"):
        return resolved.replace(dtype="bfloat16")
    return resolved


class DecoderCrossEncoder(PairTokenizerMixin, LocalModel):
    """A language model that reranks: Qwen3-Reranker, mxbai-rerank-v2, and derived classifiers.

    Batches are padded. The common prefix of a query's pairs (the prompt, the instruction and the
    query) is computed once, and the output layer only for the answer tokens.
    """

    scale = ScoreScale.LOGIT
    is_padded = True
    resolve = staticmethod(resolve_decoder)

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device."""
        spec = cast("DecoderSpec | None", config.spec) or DecoderSpec(config.model)
        loaded = load_decoder(config, spec)
        self._use_tokenizer(config, loaded)
        self._use_last_token(loaded, reuse=spec.prefix_reuse)

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; raw float32 logits of shape ``(len(batch),)``."""
        with torch.inference_mode(), mapped_out_of_memory():
            scores: torch.Tensor = self.model([item.payload for item in batch])
        return scores.float().cpu().numpy()

    def _use_tokenizer(self, config: ModelConfig, loaded: Any) -> None:  # noqa: ANN401
        """Set every attribute except the model, from a LoadedDecoder or a FlagEncoder."""
        self._set_up(config, loaded.max_seq_length, loaded.fingerprint)
        self._pairs = loaded.pairs
        self._max_seq_length = loaded.max_seq_length

    def _use_last_token(self, loaded: LoadedDecoder, *, reuse: bool) -> None:
        """Score by the last token; common prefixes are reused if that does not change scores."""
        scorer = LastTokenScorer(loaded.base.to(self.device), loaded.head.to(self.device))
        self._model = scorer
        scorer.reuse = reuse and self._prefixes_are_exact(scorer)

    def _prefixes_are_exact(self, scorer: LastTokenScorer) -> bool:
        """Return whether probes score the same with cached prefixes and without."""
        probes = self.prepare(_PROBES)
        scores = []
        for reuse in (False, True):
            scorer.reuse = reuse
            scores.append(self.run(probes))
        scorer.clear_prefixes()
        difference = float(np.abs(scores[0] - scores[1]).max())
        tolerance = 1e-4 if self.identity.dtype == "float32" else 0.02
        tolerance *= 1 + float(np.abs(scores[0]).max())
        if difference <= tolerance:
            return True
        _log.warning(
            "%r: scores with cached prefixes differ by %g (allowed %g); no prefix is cached.",
            self.identity.model,
            difference,
            tolerance,
        )
        return False
