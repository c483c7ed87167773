"""What stands in the disk cache: keys by everything a result depends on, values as bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import asdict
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import numpy as np

from rerank_plugins.core.batching.cache import Entry
from rerank_plugins.core.types import ModelIdentity

FORMAT: Final = 1
"""Raised whenever a key or a value is made differently, or texts are cut differently."""

_HEAD: Final = struct.Struct("<IB")
"""Tokens, and whether the item was cut."""

_CHECKSUM: Final = 8
"""Bytes of the checksum before each value."""

Field: TypeAlias = "str | int | None"


def is_pinned(identity: ModelIdentity) -> bool:
    """Return whether an identity tells this model's weights from those of any other."""
    return bool(identity.fingerprint or identity.revision)


class Keys:
    """Keys of one model's results."""

    def __init__(self, identity: ModelIdentity) -> None:
        """Hash what all its keys have in common.

        With a fingerprint, the same weights under another name or in another folder give
        the same keys.
        """
        fields = asdict(identity)
        if identity.fingerprint:
            fields |= {"model": None, "revision": None}
        parts: list[Field] = [FORMAT]
        for name in sorted(fields):
            parts += [name, fields[name]]
        self._reach = identity.max_length
        self._model = blake2b(_encoded(parts), digest_size=32)

    def key(self, item: tuple[Any, ...], max_length: int | None) -> bytes:
        """Return the key of an item; 32 bytes.

        Args:
            item: A text pair, or a text with role and prompt.
            max_length: Most tokens it may have; None, or more than the model's reach, is
                the reach.
        """
        key = self._model.copy()
        length = min(max_length or self._reach, self._reach)
        key.update(_encoded([length, type(item).__name__, len(item), *item]))
        return key.digest()


def pack(key: bytes, entry: Entry) -> bytes:
    """Return the bytes of a result; the checksum covers the key as well."""
    row = np.asarray(entry.row, dtype="<f4")
    body = _HEAD.pack(entry.tokens, entry.truncated) + row.tobytes()
    return _checksum(key, body) + body


def unpack(key: bytes, value: object, shape: tuple[int, ...]) -> Entry | None:
    """Return the result of some bytes, or None if they are not one of this key.

    Args:
        key: The key under which they were found.
        value: What was found there.
        shape: Shape of the results of this model; of a score, ``()``.
    """
    size = _CHECKSUM + _HEAD.size + 4 * int(np.prod(shape))
    if not isinstance(value, bytes) or len(value) != size:
        return None
    body = value[_CHECKSUM:]
    if _checksum(key, body) != value[:_CHECKSUM]:
        return None
    tokens, truncated = _HEAD.unpack_from(body)
    row = np.frombuffer(body, dtype="<f4", offset=_HEAD.size).astype(np.float32).reshape(shape)
    if not np.isfinite(row).all():
        return None
    return Entry(row, tokens, bool(truncated), from_disk=True)


def _checksum(key: bytes, body: bytes) -> bytes:
    return blake2b(body, key=key, digest_size=_CHECKSUM).digest()


def _encoded(fields: Iterable[Field]) -> bytes:
    """Return fields one after the other, each with its type and its length before it."""
    parts = []
    for one in fields:
        kind = b"n" if one is None else b"i" if isinstance(one, int) else b"s"
        text = b"" if one is None else str(one).encode("utf-8", "surrogatepass")
        parts.append(kind + len(text).to_bytes(8, "little") + text)
    return b"".join(parts)
