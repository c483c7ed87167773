"""One cell: all its systems score the same requests, in turn, A B A B."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Any, Final, Protocol

from benchmarks.limit import useful_flops
from benchmarks.speed.agreement import agreement, worst
from benchmarks.speed.client import SystemFailedError
from benchmarks.speed.limits import Limits, busy_share
from benchmarks.speed.shapes import Shape
from benchmarks.speed.systems import SYSTEMS
from benchmarks.speed.workloads import Request
from benchmarks.timing import milliseconds, ratio

MOST_ROUNDS: Final = 40
LEAST_ROUNDS: Final = 2
_CHECKED: Final = 100


class Asked(Protocol):
    """A system that answers requests, such as a process."""

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
        """Answer a request."""
        ...


@dataclass
class Turns:
    """What one system did.

    Attributes:
        seconds: Of each round.
        compared: Its scores beside the right ones, the check before the first round included.
        computed: Tokens it gave its model at the check, padding included; None if unseen.
    """

    seconds: list[float]
    compared: list[dict[str, Any]]
    computed: int | None


def check(
    processes: Mapping[str, Asked], request: Request, drop: Callable[[str, str], None], truth: str
) -> dict[str, Turns]:
    """Let each system score a request untimed, and compare; this warms them up, too.

    Args:
        processes: The systems.
        request: What to score.
        drop: Told of each system that fails, with the reason.
        truth: The system whose scores are the right ones.

    Raises:
        SystemFailedError: If that one fails.
    """
    answers = {}
    for name, process in processes.items():
        asked = {"query": request.query, "texts": request.texts, "trace": True}
        try:
            answers[name] = process.ask("score", **asked)
        except SystemFailedError as error:
            if name == truth:
                raise
            drop(name, str(error))
    right = answers[truth]["scores"]
    return {
        name: Turns([], [agreement(right, answer["scores"], SYSTEMS[name].scale)], answer["tokens"])
        for name, answer in answers.items()
    }


def take_turns(
    processes: Mapping[str, Asked],
    turns: dict[str, Turns],
    requests: Sequence[Request],
    truth: str,
    *,
    seconds: float,
    limits: Limits,
) -> list[Request]:
    """Time the systems round by round, each round with another request and another first.

    Returns:
        The request of each round.
    """
    names = list(turns)
    begun = monotonic()
    done: list[Request] = []
    while len(done) < MOST_ROUNDS:
        limits.refresh()
        start = monotonic()
        number = len(done)
        request = requests[number % len(requests)]
        first = number % len(names)
        answers = _asked(processes, names[first:] + names[:first], request)
        for name, answer in answers.items():
            right = answers[truth]["scores"]
            turns[name].seconds.append(answer["seconds"])
            turns[name].compared.append(agreement(right, answer["scores"], SYSTEMS[name].scale))
        done.append(request)
        took = monotonic() - start
        if len(done) >= LEAST_ROUNDS and monotonic() + took > begun + seconds:
            break
    return done


def _asked(
    processes: Mapping[str, Asked], names: Sequence[str], request: Request
) -> dict[str, dict[str, Any]]:
    return {
        name: processes[name].ask("score", query=request.query, texts=request.texts)
        for name in names
    }


def figures(
    turns: Turns, baseline: Turns, lengths: Sequence[Sequence[int]], shape: Shape, limit: float
) -> dict[str, Any]:
    """Return what a system's turns come to.

    Args:
        turns: The system's.
        baseline: Those of the system that everybody is compared with.
        lengths: Tokens of each pair, for each round.
        shape: The model's.
        limit: FLOP/s of the matrix product in float32.
    """
    work = [useful_flops(row, shape.layers, shape.width, shape.ffn) for row in lengths]
    rates = [flops / taken for flops, taken in zip(work, turns.seconds, strict=True)]
    times = milliseconds(turns.seconds)
    return {
        "pairs_per_s": median(
            len(row) / taken for row, taken in zip(lengths, turns.seconds, strict=True)
        ),
        "p50_ms": times["p50"],
        "p95_ms": times["p95"],
        "speedup": ratio(baseline.seconds, turns.seconds),
        "flops": median(rates),
        "share_of_limit": median(rates) / limit,
        **worst(turns.compared),
        "seconds": turns.seconds,
    }


def measure(
    processes: Mapping[str, Asked],
    requests: Sequence[Request],
    *,
    shape: Shape,
    count_tokens: Callable[[Request], list[int]],
    drop: Callable[[str, str], None],
    baseline: str,
    truth: str,
    seconds: float,
    limits: Limits,
) -> dict[str, Any]:
    """Measure one cell.

    Args:
        processes: The systems.
        requests: What to score; the last one only for the check.
        shape: The model's.
        count_tokens: Returns the tokens of each pair of a request.
        drop: Told of each system that fails, with the reason.
        baseline: The system that everybody is compared with.
        truth: The one whose scores are the right ones.
        seconds: About how long to take turns.
        limits: Measures the machine in between.
    """
    sample = Request(requests[-1].query, requests[-1].texts[:_CHECKED])
    turns = check(processes, sample, drop, truth)
    for name in turns:
        processes[name].ask("memory", reset=True)
    busy = busy_share()
    limits.begin()
    done = take_turns(processes, turns, requests[:-1], truth, seconds=seconds, limits=limits)
    lengths = [count_tokens(request) for request in done]
    limit = limits.found()
    found: dict[str, Any] = {
        "rounds": len(done),
        "tokens_per_pair": sum(map(sum, lengths)) / sum(map(len, lengths)),
        "limit_flops": limit,
        "busy_elsewhere": busy,
        "systems": {},
    }
    real = sum(count_tokens(sample)) if len(sample.texts) == len(done[0].texts) else None
    for name, one in turns.items():
        found["systems"][name] = {
            **figures(one, turns[baseline], lengths, shape, limit["float32"]),
            "padding_share": 1 - real / one.computed if real and one.computed else None,
            **processes[name].ask("memory"),
        }
    return found
