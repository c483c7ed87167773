"""Token ids of texts for a bi-encoder: the prompt before each, cut to what the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from tokenizers import Encoding, Tokenizer

from rerank_plugins.backends._texts import encodable
from rerank_plugins.backends._tokenizer import cutting
from rerank_plugins.backends.torch.pairs import TokenPair
from rerank_plugins.core.protocols import Prepared, Role, RoleText


class RoleTokenizer:
    """Prepares texts for a model that reads one at a time."""

    def __init__(self, tokenizer: Tokenizer, prompts: Mapping[Role, str], reach: int) -> None:
        """Use a private tokenizer (no truncation, no padding).

        Args:
            tokenizer: The Rust tokenizer; never changed.
            prompts: What stands before a text of each role.
            reach: Most tokens that the model reads.
        """
        self._prompts = prompts
        self._reach = reach
        self._cutting = lru_cache(maxsize=16)(lambda most: cutting(tokenizer, most))

    def prepare(self, items: Sequence[RoleText], max_length: int | None = None) -> list[Prepared]:
        """Put the prompts before the texts, tokenise and cut; thread-safe.

        Returns:
            Payloads are :class:`TokenPair`, all of one type.
        """
        reach = min(max_length or self._reach, self._reach)
        prompts = [
            self._prompts[item.role] if item.prompt is None else encodable(item.prompt)
            for item in items
        ]
        encoded = self._cutting(reach).encode_batch_fast(
            [f"{prompt}{encodable(item.text)}" for prompt, item in zip(prompts, items, strict=True)]
        )
        return [
            Prepared(tokens=len(one), truncated=bool(one.overflowing), payload=_of_one_type(one))
            for one in encoded
        ]


def _of_one_type(encoding: Encoding) -> TokenPair:
    ids = np.asarray(encoding.ids, dtype=np.int32)
    return TokenPair(ids, np.zeros_like(ids))
