"""Digest of a model's files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, Final

from huggingface_hub import try_to_load_from_cache

_log = logging.getLogger(__name__)

_READ: Final = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".py", ".safetensors"}
"""Settings, tokenizers, remote code and weights; not cards, licenses or other formats."""

_WHOLE: Final = 64 * 2**20
"""Weights of at most so many bytes are read whole."""

_BLOCK: Final = 4_096
_SAMPLED: Final = 4 * 2**20
"""Bytes that are read of larger weights."""

_HEADER: Final = 100_000_000
"""Most bytes of a header, as safetensors itself has it."""

_UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
"""What comes of a file whose header or list of modules is none."""


def fingerprint(source: str, revision: str | None, cache_folder: str | None) -> str:
    """Return the digest of a model's files: the same wherever they lie.

    Files are read whole, but of large weights the header and blocks spread evenly over
    every tensor: training moves nearly all numbers of the tensors that it trains.

    Args:
        source: A folder, or a Hub name whose files have been downloaded.
        revision: Branch, tag or commit on the hub; None is the main branch.
        cache_folder: Where downloads are kept; None is Hugging Face's own place.

    Returns:
        64 hexadecimal digits; empty if the files cannot be read again.
    """
    digest = blake2b(digest_size=32)
    try:
        folder = _folder(source, revision, cache_folder)
        for name in sorted(_names(folder)):
            path = folder / name
            part = blake2b(digest_size=32)
            with path.open("rb") as file:
                for block in _blocks(file, path):
                    part.update(block)
            digest.update(blake2b(name.encode("utf-8", "surrogateescape")).digest())
            digest.update(part.digest())
    except _UNREADABLE as error:
        _log.warning("%r has no fingerprint: its files cannot be read again: %s", source, error)
        return ""
    return digest.hexdigest()


def _folder(source: str, revision: str | None, cache_folder: str | None) -> Path:
    if Path(source).is_absolute():
        return Path(source)
    for name in ("config.json", "modules.json"):
        found = try_to_load_from_cache(source, name, cache_dir=cache_folder, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    message = "neither config.json nor modules.json is among the downloaded files"
    raise OSError(message)


def _names(folder: Path) -> Iterator[str]:
    """Yield the files of a model, and of its sentence-transformers modules."""
    modules = folder / "modules.json"
    folders = {folder}
    if modules.is_file():
        # A module without files of its own may have no folder.
        folders |= {folder / one["path"] for one in json.loads(modules.read_bytes())}
    for one in folders:
        for path in one.glob("*"):
            if path.suffix in _READ and path.is_file():
                yield path.relative_to(folder).as_posix()


def _blocks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    size = os.fstat(file.fileno()).st_size
    if path.suffix != ".safetensors" or size <= _WHOLE:
        while block := file.read(2**20):
            yield block
        return
    # https://huggingface.co/docs/safetensors: the header's length, the header, the tensors.
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if length > _HEADER:
        message = f"{path} has a header of {length} bytes; at most {_HEADER} are allowed"
        raise ValueError(message)
    header = file.read(length)
    yield start + header
    data = 8 + len(header)
    tensors = [one["data_offsets"] for name, one in json.loads(header).items() if name[:2] != "__"]
    each = max(1, _SAMPLED // (_BLOCK * len(tensors)))
    for begin, end in sorted(tensors):
        for offset in _spread(end - begin, each):
            file.seek(data + begin + offset)
            yield file.read(min(_BLOCK, end - begin - offset))


def _spread(length: int, count: int) -> list[int]:
    """Return where at most ``count`` blocks of so many bytes begin, the first and last included."""
    if length <= count * _BLOCK:
        return list(range(0, length, _BLOCK))
    last = length - _BLOCK
    return [last * number // max(count - 1, 1) for number in range(count)]
