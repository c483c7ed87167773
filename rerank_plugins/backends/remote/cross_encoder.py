"""A cross-encoder behind an HTTP API, as a backend."""

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
from rerank_plugins.backends.model_specs import RemoteSpec
from rerank_plugins.backends.remote.apis import ApiName
from rerank_plugins.backends.remote.client import RemoteClient
from rerank_plugins.backends.text import encodable
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import BatchError, ConfigurationError, EngineClosedError, RemoteError
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


ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)

_LOOK_S: Final = 5.0
"""How often a caller looks whether the loop's thread still lives."""

_CLOSE_S: Final = 10.0
"""How long closing waits, once for the last work and once for the thread."""


class LoopThread:
    """Runs coroutines for any number of threads, all on one event loop."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """Run a coroutine and return its result.

        Raises:
            EngineClosedError: If the loop is closed, or is being closed.
        """
        with self._lock:
            if self._closed:
                work.close()
                message = f"{self._name} is closed."
                raise EngineClosedError(message)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return self._wait(future)
        except CancelledError as error:
            message = f"{self._name} was closed."
            raise EngineClosedError(message) from error

    def close(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what runs, run a last coroutine, and stop; once."""
        with self._lock:
            if self._closed:
                last.close()
                return
            self._closed = True
        try:
            self._wait(asyncio.run_coroutine_threadsafe(_after_all(last), self._loop), _CLOSE_S)
        except (EngineClosedError, FutureTimeout):
            _log.warning("%s did not close its connections in time.", self._name)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSE_S)
            if not self._thread.is_alive():
                self._loop.close()

    def _wait(self, future: Future[ResultT], seconds: float = math.inf) -> ResultT:
        """Wait for a result as long as somebody is there to bring it.

        Raises:
            EngineClosedError: If the loop's thread is gone.
            FutureTimeout: If the time is up.
        """
        end = time.monotonic() + seconds
        while True:
            alive = self._thread.is_alive()  # before the wait: the result may come with its end
            try:
                return future.result(min(_LOOK_S, max(0.0, end - time.monotonic())))
            except FutureTimeout:
                # Since Python 3.11 it is the builtin one, which the work itself may have raised.
                if future.done():
                    return future.result()
                if not alive:
                    message = f"the thread of {self._name} has ended. Ask for a new engine."
                    raise EngineClosedError(message) from None
                if time.monotonic() >= end:
                    raise


async def _after_all(last: Coroutine[Any, Any, None]) -> None:
    """Cancel every other task, wait for their ends, then run the last coroutine."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await last


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
        remote = cast("RemoteSpec", config.spec)
        self._remote = remote
        self.identity = ModelIdentity(str(remote), None, remote.api, "unknown", _REACH)
        self.scale = remote.protocol.scale
        self.workers = remote.max_concurrent
        self._loop = LoopThread(f"the client of {remote}")
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
        remote = config.spec or RemoteSpec(config.model, api=cast("ApiName", config.backend))
        plain = ModelConfig()
        given = [name for name in _LOCAL if getattr(config, name) != getattr(plain, name)]
        if given:
            message = (
                f"{given[0]} is {getattr(config, given[0])!r}, but {remote} runs on a server, "
                "which decides that. Leave it out."
            )
            raise ConfigurationError(message)
        return config.replace(model=str(remote), spec=remote)

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
            text = Text(call, encodable(query)[:limit], encodable(document)[:limit])
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
