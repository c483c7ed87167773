"""A cross-encoder behind an HTTP API, as a backend."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, eq=False)
class Call:
    """A call that prepared pairs, and the trace of whoever asked for them."""

    trace: Trace | None


class Text(NamedTuple):
    """A prepared pair.

    Attributes:
        call: The call that prepared it. Pairs of different calls may be different callers', and
            are not sent together: what is wrong with one pair fails its whole request.
        query: The query, cut.
        document: The document, cut.
    """

    call: Call
    query: str
    document: str


@dataclass(frozen=True)
class Chunk:
    """One request.

    Attributes:
        rows: Positions of its documents in the batch.
        query: The query.
        documents: The documents.
        trace: That of whoever asks.
    """

    rows: list[int]
    query: str
    documents: list[str]
    trace: Trace | None = None


def chunks(batch: Sequence[TokenizedItem], max_documents: int) -> list[list[Chunk]]:
    """Return the requests of a batch, those of one caller and query in one list.

    They are of like length. The engine's budget keeps a batch well below the megabytes that
    servers take; a document beyond them is in a batch of its own, for the server to decide.
    """
    groups: dict[tuple[int, str], list[int]] = {}
    for row, one in enumerate(batch):
        groups.setdefault((id(one.payload.call), one.payload.query), []).append(row)
    return [
        [
            Chunk(
                rows,
                query,
                [batch[row].payload.document for row in rows],
                batch[rows[0]].payload.call.trace,
            )
            for rows in _cut(group, max_documents)
        ]
        for (_, query), group in groups.items()
    ]


def _cut(rows: list[int], max_documents: int) -> list[list[int]]:
    length = math.ceil(len(rows) / math.ceil(len(rows) / max_documents))
    return [rows[start : start + length] for start in range(0, len(rows), length)]


_CHARACTERS_A_TOKEN: Final = 4
_REACH: Final = 1_000_000_000
"""Only the server knows its own."""

_LOCAL: Final = (
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
    """Scores text pairs by asking a server.

    Attributes:
        workers: Batches at once, so that one slow answer does not hold up the others.
        prepare_items: Enough for a long request to be one batch: nothing is tokenized here.
        batch_tokens: About a hundred passages of 500 tokens.
    """

    is_padded = False
    prepare_items = 2_048
    batch_tokens = 65_536

    def __init__(self, config: ModelConfig) -> None:
        """Prepare to ask; nothing is sent.

        Raises:
            MissingDependencyError: If the extra ``remote`` is not installed.
            ConfigurationError: If the token cannot be had.
        """
        remote = cast("RemoteSpec", config.settings)
        self._remote = remote
        self.identity = ModelIdentity(str(remote), None, remote.api, "unknown", _REACH)
        self.scale = remote.protocol.scale
        self.workers = remote.max_concurrent
        self._loop = BackgroundLoop(f"the client of {remote}")
        try:
            self._client = self._loop.run(_made(remote))
        except BaseException:
            self._loop.close(_nothing())
            raise

    @staticmethod
    def resolve(config: ModelConfig) -> ModelConfig:
        """Return the configuration with the remote model's settings, also for a plain address.

        Raises:
            ConfigurationError: If a setting is given that only a model in this process has.
        """
        remote = config.settings or RemoteSpec(config.model, api=cast("ApiName", config.backend))
        plain = ModelConfig()
        given = [name for name in _LOCAL if getattr(config, name) != getattr(plain, name)]
        if given:
            message = (
                f"{given[0]} is {getattr(config, given[0])!r}, but {remote} runs on a server, "
                "which decides that. Leave it out."
            )
            raise ConfigurationError(message)
        return replace(config, model=str(remote), settings=remote)

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Cut texts to ``max_characters`` and estimate their tokens.

        Args:
            items: The pairs.
            max_length: Not used: only the server counts tokens.
        """
        call = Call(current_trace())
        limit = self._remote.max_characters or self._remote.protocol.max_characters
        prepared = []
        for query, document in items:
            text = Text(
                call, replace_surrogates(query)[:limit], replace_surrogates(document)[:limit]
            )
            tokens = (len(text.query) + len(text.document)) // _CHARACTERS_A_TOKEN + 8
            cut = limit is not None and max(len(query), len(document)) > limit
            prepared.append(TokenizedItem(min(tokens, _REACH), cut, text))
        return prepared

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; shape ``(len(batch),)``.

        Raises:
            BatchError: If a request failed, with the error of each item that was in it.
            EngineClosedError: If the backend is closed.
        """
        limit = self._remote.max_documents or self._remote.protocol.max_documents
        groups = chunks(batch, limit)
        rows = np.full(len(batch), np.nan, dtype=np.float32)
        errors: dict[int, RemoteError] = {}
        for group, result in zip(groups, self._loop.run(self._all(groups)), strict=True):
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
        """Give up what runs and close the connections."""
        self._loop.close(self._client.close())

    async def _all(self, groups: list[list[Chunk]]) -> list[list[FloatArray] | RemoteError]:
        return list(await asyncio.gather(*(self._group(group) for group in groups)))

    async def _group(self, group: list[Chunk]) -> list[FloatArray] | RemoteError:
        """Return the scores of each chunk; the first failure ends the others."""
        tasks = [
            asyncio.ensure_future(self._client.scores(chunk.query, chunk.documents, chunk.trace))
            for chunk in group
        ]
        try:
            return list(await asyncio.gather(*tasks))
        except RemoteError as error:
            return error
        except Exception as error:  # noqa: BLE001  (nothing foreign may leave)
            mapped = RemoteError(f"{self._remote} cannot be asked: {type(error).__name__}")
            mapped.__cause__ = error
            return mapped
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _made(remote: RemoteSpec) -> RemoteClient:
    return RemoteClient(remote)


async def _nothing() -> None:
    return None
