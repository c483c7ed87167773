"""Safe use of Rust tokenizers.

A model's tokenizer is copied, so that threads do not share its truncation and padding settings;
panics become Python exceptions; and tokenizers whose rules expand text without bound are rejected.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from tokenizers import Encoding, Tokenizer

from rerank_plugins.errors import ModelLoadError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MIN_WORDS: Final = 16
"""Every real vocabulary has more entries than this, special tokens excluded."""

_MAX_GROWTH: Final = 64
"""Limit of the expansion of a text. NFKC's longest expansion is 18 characters of two bytes."""

_SIZE_BYTES: Final = 4
"""A precompiled character map starts with the size of its trie, followed by its strings."""


def private_tokenizer(tokenizer: PreTrainedTokenizerBase, model: str) -> Tokenizer:
    """Return a private copy of the Rust tokenizer inside a transformers tokenizer.

    transformers sets truncation and padding on the shared object in every call, so two threads
    with different settings silently affect each other (transformers#47085). The copy has neither
    and never changes: encoding with it is thread-safe.
    """
    rust = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(rust, Tokenizer):
        message = (
            f"the tokenizer of {model!r} ({type(tokenizer).__name__}) has no tokenizer.json "
            "form. Save one with transformers' fast tokenizer in the model's folder."
        )
        raise ModelLoadError(message)
    # Without its files, transformers creates a tokenizer with special tokens only.
    words = rust.get_vocab().keys() - set(tokenizer.all_special_tokens)
    if len(words) < _MIN_WORDS:
        message = (
            f"the tokenizer of {model!r} has a vocabulary of {len(words)} entries: its files are "
            "missing. Put its tokenizer.json into the model's folder."
        )
        raise ModelLoadError(message)
    copy: Tokenizer = Tokenizer.from_str(rust.to_str())
    copy.no_truncation()
    copy.no_padding()
    return cast("Tokenizer", GuardedTokenizer(copy))


def truncating_tokenizer(tokenizer: Tokenizer, max_seq_length: int) -> Tokenizer:
    """Return a copy that truncates to ``max_seq_length`` tokens; the original is not changed."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(max_seq_length)
    return cast("Tokenizer", GuardedTokenizer(copy))


class GuardedTokenizer:
    """Wrapper of a Rust tokenizer, which cannot be subclassed, that maps panics to exceptions.

    A panic is not an :class:`Exception`: no caller catches it, and it would end the thread that
    works for all callers.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer."""
        self._tokenizer = tokenizer

    def to_str(self) -> str:
        """Return the serialized tokenizer, as JSON."""
        return self._tokenizer.to_str()

    def encode(self, text: str, pair: str | None = None, **options: Any) -> Encoding:  # noqa: ANN401
        """Encode a text or a pair."""
        with mapped_panics():
            return self._tokenizer.encode(text, pair, **options)

    def encode_batch(self, texts: list[str], **options: Any) -> list[Encoding]:  # noqa: ANN401
        """Encode texts."""
        with mapped_panics():
            return self._tokenizer.encode_batch(texts, **options)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> list[Encoding]:  # noqa: ANN401
        """Encode texts, without the character offsets of their tokens."""
        with mapped_panics():
            return self._tokenizer.encode_batch_fast(texts, **options)


@contextmanager
def mapped_panics() -> Iterator[None]:
    """Map a Rust panic to a Python exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the class cannot be imported
            raise
        message = f"the tokenizer panicked: {error}"
        raise RuntimeError(message) from error


def validate_tokenizer(settings: Any, where: str) -> None:  # noqa: ANN401  (any JSON)
    """Reject a tokenizer whose rules can expand a text beyond all bounds.

    The Rust library aborts the process when it runs out of memory.
    """
    if not isinstance(settings, dict):
        return
    stages = (settings.get("normalizer"), settings.get("pre_tokenizer"))
    try:
        growth = math.prod(_growth(rule) for stage in stages for rule in _rules(stage))
    except (AttributeError, TypeError, ValueError, RecursionError):
        return  # loading it raises an error with the reason
    if growth > _MAX_GROWTH:
        message = (
            f"the rules of {where} make a text up to {growth:.3g} times longer; at most "
            f"{_MAX_GROWTH} is allowed. The file is damaged or malicious: do not use this model."
        )
        raise ModelLoadError(message)


def _rules(stage: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  (any JSON)
    """Yield the rules of a normalizer or pre-tokenizer, nested sequences included."""
    if stage is None:
        return
    inner = stage.get("normalizers") or stage.get("pretokenizers")
    if inner is None:
        yield stage
    for rule in inner or ():
        yield from _rules(rule)


def _growth(rule: dict[str, Any]) -> float:
    """Return the largest factor by which a rule can lengthen a text, at least 1."""
    kind = rule.get("type")
    if kind == "Replace":
        pattern = rule["pattern"].get("String")
        # A regular expression may match the empty string between any two characters.
        return max(1.0, len(rule["content"]) / len(pattern) if pattern else len(rule["content"]))
    if kind == "ByteLevel":
        return 2.0
    if kind == "Precompiled":
        table = base64.b64decode(rule["precompiled_charsmap"])
        start = _SIZE_BYTES + int.from_bytes(table[:_SIZE_BYTES], "little")
        return float(max(map(len, table[start:].split(b"\0")), default=1) or 1)
    return 1.0
