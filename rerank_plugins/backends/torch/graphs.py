"""Small batches computed by recorded graphs, one for each size; others as they come.

A small batch on a GPU takes as long as its hundred kernels take to be launched. A graph is
launched once, but its sizes and addresses are fixed: batches are filled up to a
:class:`~rerank_plugins.backends.torch.buckets.Bucket` and written to the same memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import torch

from rerank_plugins.backends.torch.buckets import Bucket
from rerank_plugins.backends.torch.capture import Compute
from rerank_plugins.backends.torch.inputs import Frame, Inputs, PackedBatch
from rerank_plugins.backends.torch.precision import allowed_difference
from rerank_plugins.core.protocols import FloatArray, Prepared

_log = logging.getLogger(__name__)

_MOST: Final = 64
"""Buckets that are remembered. Requests of one kind use a handful."""

Record = Callable[[Compute], Compute]
"""Returns what does again what a function does; see :class:`.capture.Capture`."""


class Graph(NamedTuple):
    """A recorded forward pass.

    Attributes:
        frame: Where it reads.
        replay: Returns its logits, shape ``(sequences of the bucket, labels)``.
    """

    frame: Frame
    replay: Compute


class Graphs:
    """Computes batches; one thread at a time may call it.

    A bucket is recorded when it comes for the second time, and not used before its graph has
    given the scores of that batch, in two orders, that the layers give. After any failure
    nothing is recorded any more.
    """

    def __init__(
        self,
        forward: Callable[[PackedBatch], torch.Tensor],
        inputs: Inputs,
        record: Record,
        *,
        model: str,
        dtype: str,
        most: int = _MOST,
    ) -> None:
        """Record nothing yet.

        Args:
            forward: Computes logits; what it writes to is not used by anything else.
            inputs: Packs for it.
            record: Records it.
            model: Name of the model, for messages.
            dtype: Data type of its arithmetic.
            most: Buckets to remember; the one that was not used for longest is forgotten.
        """
        self._forward = forward
        self._inputs = inputs
        self._record: Record | None = record
        self._model = model
        self._dtype = dtype
        self._most = most
        self._known: dict[Bucket, Graph | None] = {}

    def __call__(self, batch: Sequence[Prepared]) -> torch.Tensor:
        """Compute logits of shape ``(len(batch), labels)``, to be read before the next call."""
        record = self._record
        bucket = None if record is None else Bucket.of([one.tokens for one in batch])
        if record is None or bucket is None:
            return self._forward(self._inputs.packed(batch))
        again = bucket in self._known
        graph = self._known.pop(bucket, None)
        if graph is not None:
            self._known[bucket] = graph  # the last that will be forgotten
            return self._replayed(graph, batch)
        logits = self._forward(self._inputs.packed(batch))
        while len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[bucket] = self._recorded(record, bucket, batch, logits) if again else None
        return logits

    def _replayed(self, graph: Graph, batch: Sequence[Prepared]) -> torch.Tensor:
        self._inputs.fill(graph.frame, batch)
        return graph.replay()[: len(batch)]

    def _recorded(
        self, record: Record, bucket: Bucket, batch: Sequence[Prepared], logits: torch.Tensor
    ) -> Graph | None:
        """Return a graph that was seen to give these logits; None if there is none to be had."""
        wanted: FloatArray = logits.float().cpu().numpy()
        if not np.isfinite(wanted).all():
            return None  # nothing to compare with; the data type is about to change
        try:
            return self._checked(record, bucket, batch, wanted)
        except (RuntimeError, ArithmeticError) as error:
            reason = f"{type(error).__name__}: {error}"
        self._record = None
        self._known.clear()
        torch.cuda.empty_cache()
        _log.warning("%r goes on without CUDA graphs: %s", self._model, reason)
        return None

    def _checked(
        self, record: Record, bucket: Bucket, batch: Sequence[Prepared], wanted: FloatArray
    ) -> Graph:
        """Record, and replay on a batch and on the same the other way round.

        Raises:
            RuntimeError: If it cannot be recorded.
            ArithmeticError: If the logits are not those of the layers.
        """
        # What torch itself prepares at the first capture must be of use to others, who may not
        # be in inference mode.
        with torch.inference_mode(mode=False), torch.no_grad():
            frame = self._inputs.frame(bucket)
            self._inputs.fill(frame, batch)
            graph = Graph(frame, record(partial(self._forward, frame.batch)))
        order = np.arange(len(batch))
        for rows in (order, order[::-1]):
            logits = self._replayed(graph, [batch[row] for row in rows])
            difference = float(np.abs(logits.float().cpu().numpy() - wanted[rows]).max())
            allowed = allowed_difference(self._dtype, wanted)
            if not difference <= allowed:
                message = f"{bucket} is off by {difference:g}, where {allowed:g} is allowed."
                raise ArithmeticError(message)
        _log.debug("%r: recorded a graph for %s.", self._model, bucket)
        return graph
