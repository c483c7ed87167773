"""A private Rust tokenizer: no truncation or padding state that threads could race on."""

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

_FEWEST_WORDS: Final = 16
"""A real vocabulary has more pieces of text than this, besides its special tokens."""


def private_tokenizer(tokenizer: PreTrainedTokenizerBase, model: str) -> Tokenizer:
    """Return a copy of the Rust tokenizer inside a transformers tokenizer.

    transformers sets truncation and padding on the shared object at every call, so two
    threads with different settings silently get each other's (transformers#47085). The copy
    has neither and is never changed afterwards: encoding with it is thread-safe.

    Raises:
        ModelLoadError: If the tokenizer has no Rust form, or no vocabulary: without its
            files, transformers builds one of special tokens only, which reads every text
            as unknown.
    """
    rust = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(rust, Tokenizer):
        message = (
            f"the tokenizer of {model!r} ({type(tokenizer).__name__}) has no tokenizer.json "
            "form. Save one with transformers' fast tokenizer beside the weights."
        )
        raise ModelLoadError(message)
    words = rust.get_vocab().keys() - set(tokenizer.all_special_tokens)
    if len(words) < _FEWEST_WORDS:
        message = (
            f"the tokenizer of {model!r} knows {len(words)} pieces of text: its files are "
            "missing. Put its tokenizer.json beside the weights."
        )
        raise ModelLoadError(message)
    copy: Tokenizer = Tokenizer.from_str(rust.to_str())
    copy.no_truncation()
    copy.no_padding()
    return cast("Tokenizer", GuardedTokenizer(copy))


def truncating_tokenizer(tokenizer: Tokenizer, max_seq_length: int) -> Tokenizer:
    """Return a copy that cuts texts to so many tokens: one that is shared is never changed."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    copy.enable_truncation(max_seq_length)
    return cast("Tokenizer", GuardedTokenizer(copy))


class GuardedTokenizer:
    """What is used of a Rust tokenizer, which cannot be subclassed; a panic becomes an error.

    A panic of Rust is none of Python's errors: nobody would catch it, and it would end the thread
    that works for all callers.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Guard a tokenizer."""
        self._tokenizer = tokenizer

    def to_str(self) -> str:
        """Return what the tokenizer is made of, as JSON."""
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
        """Encode texts, without the places of their tokens."""
        with mapped_panics():
            return self._tokenizer.encode_batch_fast(texts, **options)


@contextmanager
def mapped_panics() -> Iterator[None]:
    """Raise a panic of Rust as an error of Python.

    Raises:
        RuntimeError: If there is one; whoever is called maps it as any other.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # it can be imported from nowhere
            raise
        message = f"the tokenizer broke down: {error}"
        raise RuntimeError(message) from error


_MAX_GROWTH: Final = 64
"""How many times longer a text may become; NFKC's longest letter becomes 18 of two bytes."""

_SIZE_BYTES: Final = 4
"""A compiled table begins with the length of its tree; its texts come after that."""


def validate_tokenizer(settings: Any, where: str) -> None:  # noqa: ANN401  (any JSON)
    """Check that a tokenizer's rules, one after the other, do not make texts far longer.

    The Rust library ends the process when there is no memory left.

    Args:
        settings: What ``tokenizer.json`` holds; None where there is none.
        where: The file, for messages.

    Raises:
        ModelLoadError: If they do.
    """
    if not isinstance(settings, dict):
        return
    parts = (settings.get("normalizer"), settings.get("pre_tokenizer"))
    try:
        longer = math.prod(_growth(rule) for part in parts for rule in _rules(part))
    except (AttributeError, TypeError, ValueError, RecursionError):
        return  # the loader says what is wrong with it
    if longer > _MAX_GROWTH:
        message = (
            f"the rules of {where} make a text up to {longer:.3g} times longer; at most {_MAX_GROWTH} is "
            "allowed. The file is damaged, or made to fill the memory: do not trust this model."
        )
        raise ModelLoadError(message)


def _rules(part: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  (any JSON)
    """Yield the rules of a sequence, and of those within it."""
    if part is None:
        return
    inner = part.get("normalizers") or part.get("pretokenizers")
    if inner is None:
        yield part
    for one in inner or ():
        yield from _rules(one)


def _growth(rule: dict[str, Any]) -> float:
    """Return how many times longer a rule can make a text, at least 1."""
    kind = rule.get("type")
    if kind == "Replace":
        pattern = rule["pattern"].get("String")
        # An expression may match what is empty, between any two letters.
        return max(1.0, len(rule["content"]) / len(pattern) if pattern else len(rule["content"]))
    if kind == "ByteLevel":
        return 2.0
    if kind == "Precompiled":
        table = base64.b64decode(rule["precompiled_charsmap"])
        start = _SIZE_BYTES + int.from_bytes(table[:_SIZE_BYTES], "little")
        return float(max(map(len, table[start:].split(b"\0")), default=1) or 1)
    return 1.0
