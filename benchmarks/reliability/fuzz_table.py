"""The table of fuzzed inputs in docs/reliability.md."""

from __future__ import annotations

from typing import Any

from benchmarks.environment import versions


def fuzz_table(results: dict[str, Any]) -> str:
    """Return the table as Markdown, with the machine below it."""
    lines = ["| promise | target | inputs | minutes | held |", "| --- | --- | --- | --- | --- |"]
    targets = results["targets"]
    for name, one in targets.items():
        promise = name.removeprefix("test_").replace("_", " ")
        held = "yes" if one["sound"] else "**no**"
        lines.append(
            f"| {promise} | `tests/robustness/fuzz/{one['file']}.py` | {one['examples']:,} "
            f"| {one['seconds'] / 60:.1f} | {held} |"
        )
    inputs = sum(one["examples"] for one in targets.values())
    minutes = sum(one["seconds"] for one in targets.values()) / 60
    broken = sum(not one["sound"] for one in targets.values())
    about = results["environment"]
    said = (
        f"Together {inputs:,} inputs in {minutes:.0f} minutes, {broken} promises broken; the "
        f"largest process had {results['peak_mib']:,} MiB. On one core of {about['cpu']}, "
        f"Python {about['python']}, {versions(about)}; commit {about['commit']}. "
        f"`{results['command']}` tries others."
    )
    return "\n".join([*lines, "", said])
