"""The table of the soak in ``docs/reliability.md``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.rows import Row, target_lines
from benchmarks.soak.watching import MOST_MIB_AN_HOUR, MOST_MORE, WARM_UP

_NAMES = {"client": "callers' process", "server": "server's process"}


def soak_table(found: dict[str, Any]) -> str:
    """Return the table as Markdown, with what was done below it."""
    about = found["environment"]
    kinds = ", ".join(f"{name} {count}" for name, count in found["kinds"].items())
    said = (
        f"Requests by who asked: {kinds}. {found['minutes']:g} minutes at "
        f"{found['processor_s'] / (60 * found['minutes']):.2f} of {found['pace_cores']:g} cores "
        f"allowed, {about['cores']} cores of {about['cpu']}, Python {about['python']}; commit "
        f"{about['commit']}. Growth is Theil and Sen's slope after the first "
        f"{100 * WARM_UP:.0f}%, with its 95% interval."
    )
    if found["stopped_s"]:
        said += (
            f" The processes were stopped for {found['stopped_s'] / 60:.0f} minutes besides, while "
            "the machine did other work; that time is not counted."
        )
    return "\n".join([*target_lines(_rows(found)), "", said])


def _rows(found: dict[str, Any]) -> Iterator[Row]:
    outcomes, faults = found["outcomes"], found["faults"]
    requests = found["requests"]
    yield Row("requests lost", "0", f"{outcomes['lost']} of {requests}", outcomes["lost"] == 0)
    yield Row(
        "wrong answers, or errors without a cause",
        "0",
        f"{outcomes['wrong']} of {requests}; {found['documents_scored']} scores within 1e-5 of "
        "sentence-transformers'",
        outcomes["wrong"] == 0,
    )
    rest = {name: count for name, count in outcomes.items() if name not in ("lost", "wrong")}
    yield Row("what became of the requests", "", _listed(rest))
    yield Row("faults injected into batches", "", f"{sum(faults.values())}: {_listed(faults)}")
    for process, name in _NAMES.items():
        seen = found["processes"][process]
        memory, growth = seen["resident_mib"], seen["mib_an_hour"]
        yield Row(
            f"memory of the {name}",
            f"grows under {MOST_MIB_AN_HOUR:g} MiB an hour",
            f"{growth['slope']:+.1f} ({growth['low']:+.1f} to {growth['high']:+.1f}) MiB an hour; "
            f"{memory['after_warm_up']:.0f} to {memory['end']:.0f} MiB",
            seen["memory_flat"],
        )
        for what, named in {"threads": "threads", "open_files": "open files"}.items():
            first, second = seen[what]["first_half"], seen[what]["second_half"]
            yield Row(
                f"{named} of the {name}, second half over first",
                f"on average no more than {MOST_MORE} above",
                f"{second['mean']:.1f} over {first['mean']:.1f}; at most {second['most']} over "
                f"{first['most']}",
                seen[f"{what}_flat"],
            )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
