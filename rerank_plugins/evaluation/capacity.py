"""How many replicas a load needs: pure arithmetic on rates that you measured or estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rerank_plugins.errors import ConfigurationError


@dataclass(frozen=True)
class Load:
    """What comes in, at the hour of the day when most comes in.

    Attributes:
        queries_per_s: Rerank requests a second.
        documents: Documents of a request.
        cached: Share of pairs whose scores are known, from 0 to below 1.
    """

    queries_per_s: float
    documents: int
    cached: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If one is out of range.
        """
        _check_above_0("queries_per_s", self.queries_per_s)
        _check_above_0("documents", self.documents)
        if not 0 <= self.cached < 1:
            message = f"cached is {self.cached!r}; it must be a share from 0 to below 1."
            raise ConfigurationError(message)

    @property
    def pairs_per_s(self) -> float:
        """Pairs to compute a second."""
        return self.queries_per_s * self.documents * (1 - self.cached)


@dataclass(frozen=True)
class Replica:
    """What one process with its device can do.

    Attributes:
        pairs_per_s: Pairs a second that the device scores.
        request_s: Seconds of the process's own time for a request: HTTP, JSON, queueing.
        pair_s: Seconds of the process's own time for a pair: tokenising, batches.
    """

    pairs_per_s: float
    request_s: float = 0.0
    pair_s: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: If one is out of range.
        """
        _check_above_0("pairs_per_s", self.pairs_per_s)
        for name in ("request_s", "pair_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                message = f"{name} is {value!r}; it must be a number of seconds, 0 or more."
                raise ConfigurationError(message)

    def queries_per_s(self, load: Load) -> float:
        """Return the requests of such a load that it serves a second when it is never idle."""
        return 1 / max(self.device_s(load), self.host_s(load))

    def device_s(self, load: Load) -> float:
        """Return the seconds of the device for a request."""
        return load.documents * (1 - load.cached) / self.pairs_per_s

    def host_s(self, load: Load) -> float:
        """Return the seconds of the process for a request; it computes on one core at a time."""
        return self.request_s + load.documents * (1 - load.cached) * self.pair_s


@dataclass(frozen=True)
class Plan:
    """Replicas for a load.

    Attributes:
        replicas: How many, spares included.
        utilisation: Share of their time that they are busy while all of them run.
        utilisation_without_spares: The same while the spares are lost.
        headroom: How many times the load they could serve if they were never idle.
        bound: What a replica is short of first.
    """

    replicas: int
    utilisation: float
    utilisation_without_spares: float
    headroom: float
    bound: Literal["device", "host"]


def plan(load: Load, replica: Replica, *, utilisation: float = 0.6, spares: int = 1) -> Plan:
    """Return how many replicas serve a load.

    Requests wait long before replicas are busy all the time: at random arrivals the mean wait
    grows like ``u / (1 - u)``. So a replica is planned to be busy for a part of its time, and
    spares are there to be lost or replaced.

    Args:
        load: What comes in.
        replica: What each can do.
        utilisation: Share of its time that a replica may be busy while the spares are lost.
        spares: Replicas that may be missing.

    Raises:
        ConfigurationError: If a value is out of range.
    """
    if not 0 < utilisation <= 1:
        message = f"utilisation is {utilisation!r}; it must be above 0 and at most 1."
        raise ConfigurationError(message)
    if isinstance(spares, bool) or not isinstance(spares, int) or spares < 0:
        message = f"spares is {spares!r}; it must be an integer of at least 0."
        raise ConfigurationError(message)
    busy = load.queries_per_s / replica.queries_per_s(load)
    # A little less, so that rounding in the last digit does not cost a replica.
    needed = max(1, math.ceil(busy / utilisation - 1e-9))
    host = replica.host_s(load) > replica.device_s(load)
    return Plan(
        replicas=needed + spares,
        utilisation=busy / (needed + spares),
        utilisation_without_spares=busy / needed,
        headroom=(needed + spares) / busy,
        bound="host" if host else "device",
    )


def _check_above_0(name: str, value: float) -> None:
    if isinstance(value, bool) or not 0 < value < math.inf:
        message = f"{name} is {value!r}; it must be a number above 0."
        raise ConfigurationError(message)
