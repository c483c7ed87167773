"""The decoder backend: yes or no of a language model, at the price of two vocabulary rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.backends.decoder.forward import LastToken
from rerank_plugins.backends.decoder.loading import LoadedDecoder, load_decoder
from rerank_plugins.backends.devices import mapped_out_of_memory, resolve_local
from rerank_plugins.backends.model_specs import DecoderSpec
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import EngineClosedError
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale, TextPair

_log = logging.getLogger(__name__)

_BATCH_TOKENS: Final = {"cpu": 2_048, "mps": 8_192, "cuda": 16_384}

_PROBES: Final = tuple(
    TextPair("who wrote it", document) for document in ("", "he", "she " * 40, "\n it was  ")
)


def resolve_decoder(config: ModelConfig) -> ModelConfig:
    """Choose device and data type; on CUDA bfloat16, in which decoders are published.

    Float16 overflows in some of them (Gemma).

    Raises:
        ConfigurationError: If the device is not on this machine.
    """
    resolved = resolve_local(config)
    if config.dtype == "auto" and str(resolved.device).startswith("cuda"):
        return resolved.replace(dtype="bfloat16")
    return resolved


class DecoderCrossEncoder:
    """A language model that reranks: Qwen3-Reranker, mxbai-rerank-v2, and classifiers made of them.

    Batches are padded, but what the pairs of a query begin with (the prompt, the instruction
    and the query) is computed once, and of the vocabulary only the answers' rows.
    """

    scale = ScoreScale.LOGIT
    is_padded = True
    resolve = staticmethod(resolve_decoder)

    def __init__(self, config: ModelConfig) -> None:
        """Load the model of a resolved configuration onto its device.

        Raises:
            ModelLoadError: If there is no such model, or nothing says how it reranks.
        """
        settings = cast("DecoderSpec | None", config.spec) or DecoderSpec(config.model)
        loaded = load_decoder(config, settings)
        self.device = torch.device(str(config.device))
        self._take(config, loaded)
        base, head = loaded.base.to(self.device), loaded.head.to(self.device)
        self._forward: Any = LastToken(base, head, self.device)
        self._forward.reuse = settings.prefix_reuse and self._prefixes_are_exact()

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Tokenize and cut text pairs; thread-safe."""
        max_seq_length = self.identity.max_length
        return self._pairs.prepare(items, min(max_length or max_seq_length, max_seq_length))

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return how many tokens of a document fit beside a query, at least 1."""
        max_seq_length = self.identity.max_length
        return self._pairs.room(query, min(max_length or max_seq_length, max_seq_length))

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the characters ``[start, end)`` of each token, ``(tokens, 2)`` a text."""
        return self._pairs.spans(texts)

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; raw float32 logits of shape ``(len(batch),)``."""
        if self._forward is None:
            message = f"the model {self.identity.model!r} was closed."
            raise EngineClosedError(message)
        with torch.inference_mode(), mapped_out_of_memory():
            scores = self._forward([one.payload for one in batch])
        raw: FloatArray = scores.float().cpu().numpy()
        return raw

    def close(self) -> None:
        """Release the model's memory."""
        self._forward = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _take(self, config: ModelConfig, loaded: LoadedDecoder) -> None:
        self.identity = ModelIdentity(
            config.model,
            config.revision,
            config.backend,
            config.dtype,
            loaded.max_seq_length,
            loaded.fingerprint,
        )
        self.batch_tokens = _BATCH_TOKENS.get(self.device.type, _BATCH_TOKENS["cpu"])
        self._pairs = loaded.pairs

    def _prefixes_are_exact(self) -> bool:
        """Return whether awkward pairs score with a kept prefix as they do without one."""
        probes = self.prepare(_PROBES, self.identity.max_length)
        scores = []
        for reuse in (False, True):
            self._forward.reuse = reuse
            scores.append(self.run(probes))
        self._forward.forget()
        difference = float(np.abs(scores[0] - scores[1]).max())
        allowed = 1e-4 if self.identity.dtype == "float32" else 0.02
        allowed *= 1 + float(np.abs(scores[0]).max())
        if difference <= allowed:
            return True
        _log.warning(
            "%r: scores with a kept prefix differ by %g (allowed %g); none is kept.",
            self.identity.model,
            difference,
            allowed,
        )
        return False
