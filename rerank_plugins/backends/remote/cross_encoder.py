"""Cross-encoder backend that sends pairs to a rerank server.

A batch is split into one HTTP request per query and chunk of documents, and all requests run
concurrently on one background event loop. Pairs of different callers are never sent in the same
request, because a server rejects a request as a whole.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar, cast

import numpy as np

from rerank_plugins._tracing import Trace, current_trace
from rerank_plugins.backends.model_specs import RemoteSpec, refuse_settings
from rerank_plugins.backends.remote.apis import ApiName
from rerank_plugins.backends.remote.client import RemoteClient
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import BatchError, EngineClosedError, RemoteError
from rerank_plugins.types import FloatArray, ModelIdentity, TextPair, replace_surrogates

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)

_POLL_S: Final = 5.0
"""Interval in which a waiting caller checks that the loop's thread is alive."""

_CLOSE_S: Final = 10.0
"""Time limit of :meth:`BackgroundLoop.close`, once for the cleanup and once for the thread."""

_UNKNOWN_MAX_LENGTH: Final = 1_000_000_000
"""Only the server knows the maximum length of its model."""

_LOCAL_SETTINGS: Final = (
    *("device", "dtype", "optimize", "revision", "cache_folder"),
    *("local_files_only", "trust_remote_code"),
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
        """Create the client; no request is sent."""
        remote = cast("RemoteSpec", config.spec)
        self._remote = remote
        self.identity = ModelIdentity(str(remote), None, remote.api, "unknown", _UNKNOWN_MAX_LENGTH)
        self.scale = remote.protocol.scale
        self.workers = remote.max_concurrent
        self._loop = BackgroundLoop(f"the client of {remote}")
        try:
            self._client = self._loop.run(_create_client(remote))
        except BaseException:
            self._loop.close(asyncio.sleep(0))
            raise

    @staticmethod
    def resolve(config: ModelConfig) -> ModelConfig:
        """Return the configuration with a :class:`RemoteSpec`, also for a plain URL."""
        remote = config.spec or RemoteSpec(config.model, api=cast("ApiName", config.backend))
        reason = f"{remote} runs on a server, which decides that"
        refuse_settings(config, ModelConfig(), _LOCAL_SETTINGS, reason)
        return config.replace(model=str(remote), spec=remote)

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Truncate texts to ``max_characters`` and estimate their token counts."""
        call = Call(current_trace())
        limit = self._remote.max_characters or self._remote.protocol.max_characters
        prepared = []
        for query, document in items:
            pair = RemotePair(
                call, replace_surrogates(query)[:limit], replace_surrogates(document)[:limit]
            )
            tokens = (len(pair.query) + len(pair.document)) // 4 + 8  # an estimate
            is_truncated = limit is not None and max(len(query), len(document)) > limit
            prepared.append(TokenizedItem(min(tokens, _UNKNOWN_MAX_LENGTH), is_truncated, pair))
        return prepared

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; shape ``(len(batch),)``."""
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

    async def _score_groups(self, groups: list[list[Chunk]]) -> list[Any]:
        return await asyncio.gather(*(self._score_group(group) for group in groups))

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
    """A truncated pair, and its call: pairs of different calls may belong to different callers."""

    call: Call
    query: str
    document: str


@dataclass(frozen=True)
class Chunk:
    """One HTTP request: documents, their positions in the batch, and the trace of the caller."""

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


class BackgroundLoop:
    """Runs coroutines on one event loop and returns their results to the calling threads."""

    def __init__(self, name: str) -> None:
        """Start the thread; ``name`` identifies it in error messages."""
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine and return its result."""
        with self._lock:
            if self._closed:
                coroutine.close()
                message = f"{self._name} is closed."
                raise EngineClosedError(message)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return self._wait(future)
        except CancelledError as error:
            message = f"{self._name} was closed."
            raise EngineClosedError(message) from error

    def close(self, cleanup: Coroutine[Any, Any, None]) -> None:
        """Cancel all tasks, run a cleanup coroutine and stop the thread; idempotent."""
        with self._lock:
            if self._closed:
                cleanup.close()
                return
            self._closed = True
        try:
            future = asyncio.run_coroutine_threadsafe(_cancel_tasks_then(cleanup), self._loop)
            self._wait(future, _CLOSE_S)
        except (EngineClosedError, FutureTimeout):
            _log.warning("%s did not close its connections in time.", self._name)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)
            if not self._thread.is_alive():
                self._loop.close()

    def _wait(self, future: Future[ResultT], seconds: float = math.inf) -> ResultT:
        """Wait for a result while the loop's thread is alive."""
        end = time.monotonic() + seconds
        while True:
            # Checked before the wait: a thread may deliver the result and end during it.
            is_alive = self._thread.is_alive()
            try:
                return future.result(min(_POLL_S, max(0.0, end - time.monotonic())))
            except FutureTimeout:
                # Since Python 3.11 this is the builtin TimeoutError, which the coroutine itself
                # may have raised.
                if future.done():
                    return future.result()
                if not is_alive:
                    message = (
                        f"the thread of {self._name} has ended. Close the reranker; its next call "
                        "starts a new engine."
                    )
                    raise EngineClosedError(message) from None
                if time.monotonic() >= end:
                    raise


async def _cancel_tasks_then(cleanup: Coroutine[Any, Any, None]) -> None:
    """Cancel all other tasks, wait until they have ended, then run the cleanup."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await cleanup
