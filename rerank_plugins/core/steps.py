"""Steps of a request, executed synchronously or asynchronously.

What a request does is written once, as a generator that yields :class:`Step` objects and
receives their results. :func:`run` executes the steps in the calling thread; :func:`arun`
awaits them on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple, TypeVar

ResultT = TypeVar("ResultT")
Steps = Generator["Step", Any, ResultT]


class Step(NamedTuple):
    """One operation in its synchronous and its asynchronous form."""

    call: Callable[[], Any]
    acall: Callable[[], Awaitable[Any]]


def in_thread(function: Callable[..., Any], *arguments: Any) -> Step:  # noqa: ANN401  (passed on)
    """Return a step that may take long or block: the event loop runs it in a thread."""
    return Step(
        lambda: function(*arguments),
        lambda: asyncio.to_thread(function, *arguments),
    )


def run(steps: Steps[ResultT]) -> ResultT:
    """Execute steps in this thread and return the result of the generator."""
    try:
        step = next(steps)
        while True:
            try:
                result = step.call()
            except BaseException as error:  # noqa: BLE001, PERF203  (the generator decides)
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        value: ResultT = end.value
        return value


async def arun(steps: Steps[ResultT]) -> ResultT:
    """Execute steps on the event loop and return the result of the generator."""
    try:
        step = next(steps)
        while True:
            try:
                result = await step.acall()
            except BaseException as error:  # noqa: BLE001, PERF203  (the generator decides)
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        value: ResultT = end.value
        return value
