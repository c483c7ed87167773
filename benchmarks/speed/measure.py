"""One cell: all systems score the same requests, interleaved, and their scores are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import monotonic
from typing import Any, Final, Protocol

import numpy as np

from benchmarks.common import Row, busy_share, make_rows, median_ratio, milliseconds
from benchmarks.speed.process import SystemFailedError
from benchmarks.speed.systems import SYSTEMS, Scale
from benchmarks.speed.texts import Request

TOLERANCE: Final = 1e-5
"""Of float32 scores, relative where they are above 1."""

MAX_ROUNDS: Final = 40
MIN_ROUNDS: Final = 2
_TOP: Final = 10
_CHECKED: Final = 100


def compare_scores(
    reference: Sequence[float], scores: Sequence[float], scale: Scale
) -> dict[str, Any]:
    """Compare scores with those of the reference.

    Args:
        reference: Logits in float32.
        scores: The scores of a system for the same texts.
        scale: Their scale; probabilities are compared with the sigmoids of the logits.

    Returns:
        ``largest_difference`` on the scale of the system (None if scores are missing or not
        finite), ``equal`` within :data:`TOLERANCE`, and ``same_top``: the share of the
        reference's best ten among the system's best ten.
    """
    logits, actual = (np.asarray(values, dtype=np.float64) for values in (reference, scores))
    if logits.shape != actual.shape or not np.isfinite(actual).all():
        return {"largest_difference": None, "equal": False, "same_top": 0.0}
    expected = 1 / (1 + np.exp(-logits)) if scale == "probability" else logits
    difference = np.abs(actual - expected)
    best, other = (
        set(np.argsort(-values, kind="stable")[:_TOP].tolist()) for values in (expected, actual)
    )
    return {
        "largest_difference": float(difference.max()),
        "equal": bool((difference <= TOLERANCE * np.maximum(1, np.abs(expected))).all()),
        "same_top": len(best & other) / len(best),
    }


class Process(Protocol):
    """A system that handles requests."""

    def send(self, op: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the response to a request."""
        ...


@dataclass
class Timings:
    """The rounds of one system.

    Attributes:
        seconds: Seconds of each round.
        comparisons: Its scores compared with the reference, with the check before the first round.
        computed_tokens: Tokens it computed in the check, padding included; None if unknown.
    """

    seconds: list[float]
    comparisons: list[dict[str, Any]]
    computed_tokens: int | None


def check_scores(
    processes: Mapping[str, Process],
    request: Request,
    drop: Callable[[str, str], None],
    reference: str,
) -> dict[str, Timings]:
    """Let each system score a request untimed, and compare; this is also the warm-up.

    Args:
        processes: The systems.
        request: The request.
        drop: Called with each system that fails and the reason.
        reference: The system whose scores are the reference.

    Raises:
        SystemFailedError: If the reference fails.
    """
    responses = {}
    for name, process in processes.items():
        try:
            responses[name] = process.send(
                "score", query=request.query, texts=request.texts, trace=True
            )
        except SystemFailedError as error:  # noqa: PERF203  (once per system)
            if name == reference:
                raise
            drop(name, str(error))
    logits = responses[reference]["scores"]
    return {
        name: Timings(
            [],
            [compare_scores(logits, response["scores"], SYSTEMS[name].scale)],
            response["tokens"],
        )
        for name, response in responses.items()
    }


def time_rounds(
    processes: Mapping[str, Process],
    timings: dict[str, Timings],
    requests: Sequence[Request],
    reference: str,
    seconds: float,
) -> list[Request]:
    """Time the systems in rounds; each round has its own request and starts with another system.

    Returns:
        The request of each round.
    """
    names = list(timings)
    start = monotonic()
    done: list[Request] = []
    while len(done) < MAX_ROUNDS:
        round_start, number = monotonic(), len(done)
        request = requests[number % len(requests)]
        first = number % len(names)
        responses = {
            name: processes[name].send("score", query=request.query, texts=request.texts)
            for name in names[first:] + names[:first]
        }
        logits = responses[reference]["scores"]
        for name, response in responses.items():
            timings[name].seconds.append(response["seconds"])
            compared = compare_scores(logits, response["scores"], SYSTEMS[name].scale)
            timings[name].comparisons.append(compared)
        done.append(request)
        now = monotonic()
        if len(done) >= MIN_ROUNDS and now + (now - round_start) > start + seconds:
            break
    return done


def summarize(
    timings: Timings, baseline: Timings, passages: int, sample_tokens: int | None
) -> dict[str, Any]:
    """Return the metrics of a system.

    Args:
        timings: Timings of the system.
        baseline: Timings of the baseline.
        passages: Passages of a request.
        sample_tokens: Real tokens of the check, if it was as large as a round.
    """
    times = milliseconds(timings.seconds)
    differences = [compared["largest_difference"] for compared in timings.comparisons]
    computed = timings.computed_tokens
    return {
        "speedup": median_ratio(baseline.seconds, timings.seconds),
        "pairs_per_s": median(passages / seconds for seconds in timings.seconds),
        "p50_ms": times["p50_ms"],
        "p95_ms": times["p95_ms"],
        "padding_share": 1 - sample_tokens / computed if sample_tokens and computed else None,
        "largest_difference": None if None in differences else max(differences),
        "equal": all(compared["equal"] for compared in timings.comparisons),
        "same_top": min(compared["same_top"] for compared in timings.comparisons),
    }


def measure(
    processes: Mapping[str, Process],
    requests: Sequence[Request],
    *,
    cell: str,
    count_tokens: Callable[[Request], list[int]],
    drop: Callable[[str, str], None],
    baseline: str,
    reference: str,
    seconds: float,
) -> list[Row]:
    """Measure one cell.

    Args:
        processes: The systems.
        requests: The requests; the last one is only used for the check.
        cell: The name of the cell, which is the dataset of the rows.
        count_tokens: Returns the tokens of each pair of a request.
        drop: Called with each system that fails and the reason.
        baseline: The system that all are compared with.
        reference: The system whose scores are the reference.
        seconds: About how long to measure.
    """
    sample = Request(requests[-1].query, requests[-1].texts[:_CHECKED])
    timings = check_scores(processes, sample, drop, reference)
    for name in timings:
        processes[name].send("memory", reset=True)
    busy = busy_share()
    done = time_rounds(processes, timings, requests[:-1], reference, seconds)
    lengths = [length for request in done for length in count_tokens(request)]
    passages = len(done[0].texts)
    sample_tokens = sum(count_tokens(sample)) if len(sample.texts) == passages else None
    about = {
        "rounds": len(done),
        "tokens_per_pair": sum(lengths) / len(lengths),
        "busy_elsewhere": busy,
    }
    rows = make_rows("speed", "", cell, about)
    for name, timing in timings.items():
        metrics = summarize(timing, timings[baseline], passages, sample_tokens)
        metrics |= processes[name].send("memory")
        rows += make_rows("speed", SYSTEMS[name].title, cell, metrics)
    return rows
