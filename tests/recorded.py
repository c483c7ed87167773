"""What a CUDA device does for recorded graphs, done on a CPU: operators, memory, attention."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rerank_plugins.backends.torch.capture import Compute

_EMPTY = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
_WAITS = ("_local_scalar_dense", "nonzero", "item", "equal")


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator with its tensors, and can have all of them done again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._steps: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITS:
            message = f"{name} waits for the device, which cannot be recorded."
            raise RuntimeError(message)
        result = func(*args, **(kwargs or {}))
        self._steps.append((func, args, kwargs or {}, result))
        return result

    def play(self) -> None:
        for func, args, kwargs, result in self._steps:
            returns = func._schema.returns
            if any(one.alias_info and not one.alias_info.is_write for one in returns):
                continue  # a view: the same memory
            if func.overloadpacket.__name__ in _EMPTY:
                for one in tree_leaves(result):  # it may hold anything
                    one.fill_(float("nan") if one.is_floating_point() else 0)
                continue
            anew = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(anew), strict=True):
                if new is not old:
                    old.copy_(new)


class Recorder:
    """Records as :class:`rerank_plugins.backends.torch.capture.Capture` does.

    What it returns calls no Python function of ours: numbers are those of the recording, and
    tensors are the same memory.

    Attributes:
        recorded: Functions that were recorded.
        replayed: How often one was done again.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, function: Compute) -> Compute:
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()
        with _Tape() as tape:
            result = function()
        self.recorded += 1
        result.fill_(float("nan"))  # nothing is computed while a graph is recorded

        def replay() -> torch.Tensor:
            self.replayed += 1
            tape.play()
            return result

        return replay


def varlen_attention(  # noqa: PLR0917  (torch's signature)
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    asked: torch.Tensor,
    bounds: torch.Tensor,
    most_asked: int,
    longest: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """Compute what torch's ``varlen_attn`` documents, from the bounds' values alone.

    Args:
        query: Shape ``(asking tokens, heads, width)``.
        key: Shape ``(tokens, heads, width)``.
        value: The same shape.
        asked: Where the sequences of ``query`` begin, and the total.
        bounds: The same of ``key``.
        most_asked: Most tokens of a sequence of ``query``; none beyond it is computed.
        longest: The same of ``key``.
        scale: Factor of the dot products.
        window_size: All tokens are seen.

    Returns:
        The shape of ``query``; rows that the kernel does not write are NaN.
    """
    assert window_size == (-1, -1)
    asks, place = _owners(asked, len(query))
    holds, at = _owners(bounds, len(key))
    seen = (asks[:, None] == holds[None, :]) & (at < longest)[None, :]
    dots = torch.einsum("qhd,khd->hqk", query.float(), key.float()) * (scale or 1.0)
    weights = dots.masked_fill(~seen, -torch.inf).softmax(-1)
    result = torch.einsum("hqk,khd->qhd", weights, value.float()).to(query.dtype)
    nobody = (asks >= len(asked) - 1) | (place >= most_asked)
    return result.masked_fill(nobody[:, None, None], torch.nan)


def _owners(bounds: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sequence of each token, and the token's place there."""
    rows = torch.arange(tokens)
    owners = torch.searchsorted(bounds[1:].long(), rows, right=True)
    return owners, rows - bounds.long()[owners.clamp(max=len(bounds) - 2)]
