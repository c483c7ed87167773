"""Cross-encoder backend that sends pairs to a rerank server.

A batch is split into one HTTP request per query and chunk of documents, and all requests run
concurrently. Pairs of different callers are never sent in the same request, because a server
rejects a request as a whole.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

import numpy as np

from rerank_plugins._tracing import Trace, current_trace
from rerank_plugins.backends.model_specs import RemoteSpec
from rerank_plugins.backends.remote.apis import ApiName
from rerank_plugins.backends.remote.background_loop import BackgroundLoop
from rerank_plugins.backends.remote.client import RemoteClient
from rerank_plugins.backends.text import replace_surrogates
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import BatchError, ConfigurationError, RemoteError
from rerank_plugins.types import FloatArray, ModelIdentity, TextPair

_CHARACTERS_PER_TOKEN: Final = 4
_UNKNOWN_MAX_LENGTH: Final = 1_000_000_000
"""Only the server knows the maximum length of its model."""

_LOCAL_SETTINGS: Final = (
    "device",
    "dtype",
    "optimize",
    "revision",
    "cache_folder",
    "local_files_only",
    "trust_remote_code",
)
"""Settings of a model that is loaded in this process."""


class RemoteCrossEncoder:
    """Scores text pairs with a remote model.

    Attributes:
        workers: Number of batches that run concurrently, so that a slow response does not delay
            the others.
        prepare_items: Number of items prepared at once; large, so that a long request is one
            batch, because nothing is tokenized here.
        batch_tokens: About a hundred passages of 500 tokens.
    """

    is_padded = False
    prepare_items = 2_048
    batch_tokens = 65_536

    def __init__(self, config: ModelConfig) -> None:
        """Create the client; no request is sent.

        Raises:
            MissingDependencyError: If the extra ``remote`` is not installed.
            ConfigurationError: If the token is missing or invalid.
        """
        remote = cast("RemoteSpec", config.spec)
        self._remote = remote
        self.identity = ModelIdentity(str(remote), None, remote.api, "unknown", _UNKNOWN_MAX_LENGTH)
        self.scale = remote.protocol.scale
        self.workers = remote.max_concurrent
        self._loop = BackgroundLoop(f"the client of {remote}")
        try:
            self._client = self._loop.run(_create_client(remote))
        except BaseException:
            self._loop.close(_nothing())
            raise

    @staticmethod
    def resolve(config: ModelConfig) -> ModelConfig:
        """Return the configuration with a :class:`RemoteSpec`, also for a plain URL.

        Raises:
            ConfigurationError: If a setting applies only to models in this process.
        """
        remote = config.spec or RemoteSpec(config.model, api=cast("ApiName", config.backend))
        defaults = ModelConfig()
        for name in _LOCAL_SETTINGS:
            value = getattr(config, name)
            if value != getattr(defaults, name):
                message = (
                    f"{name} is {value!r}, but {remote} runs on a server, which decides that. "
                    f"Omit {name}."
                )
                raise ConfigurationError(message)
        return config.replace(model=str(remote), spec=remote)

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Truncate texts to ``max_characters`` and estimate their token counts.

        Args:
            items: The pairs.
            max_length: Not used: only the server counts tokens.
        """
        call = Call(current_trace())
        limit = self._remote.max_characters or self._remote.protocol.max_characters
        prepared = []
        for query, document in items:
            pair = RemotePair(
                call, replace_surrogates(query)[:limit], replace_surrogates(document)[:limit]
            )
            tokens = (len(pair.query) + len(pair.document)) // _CHARACTERS_PER_TOKEN + 8
            is_truncated = limit is not None and max(len(query), len(document)) > limit
            prepared.append(TokenizedItem(min(tokens, _UNKNOWN_MAX_LENGTH), is_truncated, pair))
        return prepared

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; shape ``(len(batch),)``.

        Raises:
            BatchError: If a request failed, with the error of each of its items.
            EngineClosedError: If the backend is closed.
        """
        limit = self._remote.max_documents or self._remote.protocol.max_documents
        groups = split_batch(batch, limit)
        rows = np.full(len(batch), np.nan, dtype=np.float32)
        errors: dict[int, RemoteError] = {}
        for group, result in zip(groups, self._loop.run(self._score_groups(groups)), strict=True):
            for number, chunk in enumerate(group):
                if isinstance(result, RemoteError):
                    errors |= dict.fromkeys(chunk.rows, result)
                else:
                    rows[chunk.rows] = result[number]
        if errors:
            message = (
                f"{len(errors)} of {len(batch)} pairs have no score: {next(iter(errors.values()))}"
            )
            raise BatchError(message, rows, errors)
        return rows

    def close(self) -> None:
        """Cancel running requests and close the connections."""
        self._loop.close(self._client.close())

    async def _score_groups(
        self, groups: list[list[Chunk]]
    ) -> list[list[FloatArray] | RemoteError]:
        return list(await asyncio.gather(*(self._score_group(group) for group in groups)))

    async def _score_group(self, group: list[Chunk]) -> list[FloatArray] | RemoteError:
        """Return the scores of each chunk; the first failure cancels the others."""
        tasks = [
            asyncio.ensure_future(self._client.scores(chunk.query, chunk.documents, chunk.trace))
            for chunk in group
        ]
        try:
            return list(await asyncio.gather(*tasks))
        except RemoteError as error:
            return error
        except Exception as error:  # noqa: BLE001  (only exceptions of this package may escape)
            mapped = RemoteError(f"the request to {self._remote} failed: {type(error).__name__}")
            mapped.__cause__ = error
            return mapped
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of :meth:`RemoteCrossEncoder.prepare`, and the trace of its caller."""

    trace: Trace | None


class RemotePair(NamedTuple):
    """A prepared pair.

    Attributes:
        call: The call that prepared it. Pairs of different calls may belong to different callers.
        query: The truncated query.
        document: The truncated document.
    """

    call: Call
    query: str
    document: str


@dataclass(frozen=True)
class Chunk:
    """The documents of one HTTP request.

    Attributes:
        rows: Positions of the documents in the batch.
        query: The query.
        documents: The documents.
        trace: Trace of the caller.
    """

    rows: list[int]
    query: str
    documents: list[str]
    trace: Trace | None


def split_batch(batch: Sequence[TokenizedItem], max_documents: int) -> list[list[Chunk]]:
    """Return the requests of a batch, grouped by caller and query.

    The chunks of a group have nearly equal sizes. The engine's token budget keeps a request well
    below the size limits of servers; a single document beyond them is in a batch of its own, and
    the server decides whether to accept it.
    """
    groups: dict[tuple[int, str], list[int]] = {}
    for row, item in enumerate(batch):
        groups.setdefault((id(item.payload.call), item.payload.query), []).append(row)
    chunks = []
    for (_, query), rows in groups.items():
        size = math.ceil(len(rows) / math.ceil(len(rows) / max_documents))
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        trace = batch[rows[0]].payload.call.trace
        chunks.append(
            [
                Chunk(part, query, [batch[row].payload.document for row in part], trace)
                for part in parts
            ]
        )
    return chunks


async def _create_client(remote: RemoteSpec) -> RemoteClient:
    # On the loop's thread, because asyncio objects belong to their loop.
    return RemoteClient(remote)


async def _nothing() -> None:
    return None
