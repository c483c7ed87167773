"""Checks of settings: what was got, what is allowed."""

from __future__ import annotations

import math

from rerank_plugins.errors import ConfigurationError


def check_count(
    name: str, count: int | None, absent: str | None = None, *, least: int = 1
) -> int | None:
    """Return a count if it is an integer of at least ``least``.

    Args:
        name: What the setting is called.
        count: Its value.
        absent: What None means, for the message: "for all"; None where it is not allowed.
        least: The smallest that is allowed.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if count is None and absent is not None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        otherwise = "" if absent is None else f", or None {absent}"
        message = f"{name} is {count!r}; it must be an integer of at least {least}{otherwise}."
        raise ConfigurationError(message)
    return count


def check_top_n(top_n: int | None) -> int | None:
    """Return ``top_n`` if it is None (all) or at least 1; see :func:`check_count`."""
    return check_count("top_n", top_n, "for all")


def check_number(
    name: str,
    value: float | None,
    absent: str | None = None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
) -> float | None:
    """Return a finite number from ``low`` to ``high``; see :func:`check_count`.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if value is None and absent is not None:
        return None
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type,operator]
        bounds = [f"at least {low:g}"] if math.isfinite(low) else []
        bounds += [f"at most {high:g}"] if math.isfinite(high) else []
        allowed = " ".join(["a finite number", *([" and ".join(bounds)] if bounds else [])])
        otherwise = "" if absent is None else f", or None {absent}"
        message = f"{name} is {value!r}; it must be {allowed}{otherwise}."
        raise ConfigurationError(message)
    return value


def check_deadline(deadline_ms: float | None) -> float | None:
    """Return a deadline of at least a millisecond; None and infinity are none.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if isinstance(deadline_ms, float) and deadline_ms == math.inf:
        return deadline_ms
    return check_number("deadline_ms", deadline_ms, "for no deadline", low=1)


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check that a setting has one of its values.

    Raises:
        ConfigurationError: If it has not.
    """
    if value not in allowed:
        message = f"{name} is {value!r}; allowed are {', '.join(allowed)}."
        raise ConfigurationError(message)


def check_prompt(name: str, prompt: object) -> str | None:
    """Return a prompt if it is a string, or None for the model's own.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if prompt is None or isinstance(prompt, str):
        return prompt
    message = f"{name} is {prompt!r}; it must be a string, or None for the model's own."
    raise ConfigurationError(message)


def check_devices(device: object) -> str | tuple[str, ...] | None:
    """Return the name of one device, the names of several, or None for a choice.

    Args:
        device: A name, names with commas between them, a list or tuple of names, or None.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if device is None:
        return None
    names = device.split(",") if isinstance(device, str) else device
    words = []
    if isinstance(names, (list, tuple)):
        words = [name.strip() for name in names if isinstance(name, str)]
    if not isinstance(names, (list, tuple)) or not all(words) or not len(words) == len(names) > 0:
        message = (
            f"device is {device!r}; give a torch device such as 'cpu' or 'cuda:0', a list of "
            "them, or None to choose."
        )
        raise ConfigurationError(message)
    return tuple(words) if len(words) > 1 else words[0]
