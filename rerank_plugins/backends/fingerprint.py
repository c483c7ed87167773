"""Digest of a model's files, the same for equal files in any location.

The fingerprint is part of a model's identity: cached scores of a changed model are never reused.
"""

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

_SUFFIXES: Final = {".json", ".txt", ".model", ".jinja", ".tiktoken", ".py", ".safetensors"}
"""Configuration, tokenizers, remote code and weights; no model cards, licenses or other formats."""

_FULL_BYTES: Final = 64 * 2**20
"""Weights up to this size are read completely."""

_BLOCK_BYTES: Final = 4_096
_SAMPLE_BYTES: Final = 4 * 2**20
"""Number of bytes that are read of larger weights."""

_MAX_HEADER_BYTES: Final = 100_000_000
"""Size limit of a header, the same as in safetensors."""

_UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
"""Exceptions of an invalid header or list of modules."""


def fingerprint(source: str, revision: str | None, cache_folder: str | Path | None) -> str:
    """Return the digest of a model's files.

    Files are read completely, except for large weights, where the header and blocks spread
    evenly over every tensor are read: training changes nearly all values of a trained tensor.

    Args:
        source: A folder, or a Hub name whose files have been downloaded.
        revision: Branch, tag or commit on the Hub; None means the main branch.
        cache_folder: Folder of downloads; None means the default of Hugging Face.

    Returns:
        64 hexadecimal digits; an empty string if the files cannot be read.
    """
    digest = blake2b(digest_size=32)
    try:
        folder = _find_folder(source, revision, cache_folder)
        for name in sorted(_file_names(folder)):
            path = folder / name
            file_digest = blake2b(digest_size=32)
            with path.open("rb") as file:
                for block in _blocks(file, path):
                    file_digest.update(block)
            digest.update(blake2b(name.encode("utf-8", "surrogateescape")).digest())
            digest.update(file_digest.digest())
    except _UNREADABLE as error:
        _log.warning("%r has no fingerprint: its files cannot be read again: %s", source, error)
        return ""
    return digest.hexdigest()


def _find_folder(source: str, revision: str | None, cache_folder: str | Path | None) -> Path:
    if Path(source).is_absolute():
        return Path(source)
    for name in ("config.json", "modules.json"):
        file = try_to_load_from_cache(source, name, cache_dir=cache_folder, revision=revision)
        if isinstance(file, str):
            return Path(file).parent
    message = "neither config.json nor modules.json is among the downloaded files"
    raise OSError(message)


def _file_names(folder: Path) -> Iterator[str]:
    """Yield the files of a model and of its sentence-transformers modules."""
    modules = folder / "modules.json"
    folders = {folder}
    if modules.is_file():
        # A module without files may have no folder.
        folders |= {folder / module["path"] for module in json.loads(modules.read_bytes())}
    for module_folder in folders:
        for path in module_folder.glob("*"):
            if path.suffix in _SUFFIXES and path.is_file():
                yield path.relative_to(folder).as_posix()


def _blocks(file: BinaryIO, path: Path) -> Iterator[bytes]:
    size = os.fstat(file.fileno()).st_size
    if path.suffix != ".safetensors" or size <= _FULL_BYTES:
        while block := file.read(2**20):
            yield block
        return
    # https://huggingface.co/docs/safetensors: the header's length, the header, the tensors.
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if length > _MAX_HEADER_BYTES:
        message = f"{path} has a header of {length} bytes; at most {_MAX_HEADER_BYTES} are allowed"
        raise ValueError(message)
    header = file.read(length)
    yield start + header
    data = 8 + len(header)
    tensors = [
        tensor["data_offsets"]
        for name, tensor in json.loads(header).items()
        if name[:2] != "__"  # metadata
    ]
    blocks_per_tensor = max(1, _SAMPLE_BYTES // (_BLOCK_BYTES * len(tensors)))
    for begin, end in sorted(tensors):
        for offset in _block_offsets(end - begin, blocks_per_tensor):
            file.seek(data + begin + offset)
            yield file.read(min(_BLOCK_BYTES, end - begin - offset))


def _block_offsets(length: int, count: int) -> list[int]:
    """Return the offsets of at most ``count`` evenly spread blocks, the first and last included."""
    if length <= count * _BLOCK_BYTES:
        return list(range(0, length, _BLOCK_BYTES))
    last = length - _BLOCK_BYTES
    return [last * number // max(count - 1, 1) for number in range(count)]
