"""The tables of rounding on a CPU, as Markdown."""

from __future__ import annotations

from typing import Any


def cpu_table(results: dict[str, Any]) -> str:
    """Return speed and quality, with how they were measured below."""
    machine = results["environment"]
    return "\n".join(
        [
            *_speed(results),
            "",
            *_quality(results),
            "",
            (
                f"`{results['model']}` on {machine['cores']} cores ({machine['cpu']}), medians of "
                f"{results['turns']} questions and passages of {results['passages']}, each ranked "
                "by all in turn; in brackets the ratio of CPU time. nDCG@10 over the bi-encoder's "
                "best 50, the difference with its 95% interval, and the correlation of the "
                "scores. `python -m benchmarks.cpu` makes it anew."
            ),
        ]
    )


def _speed(results: dict[str, Any]) -> list[str]:
    counts = list(results["speed"])
    rows = [
        f"| | {' | '.join(f'{count} passages' for count in counts)} |",
        f"| --- |{' --- |' * len(counts)}",
    ]
    for name in results["speed"][counts[0]]:
        cells = []
        for count in counts:
            one = results["speed"][count][name]
            times = f"{one['faster'][0]:.1f} times ({one['faster_cpu']:.1f})"
            cells.append(f"{1000 * one['seconds']:.0f} ms, {times}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def _quality(results: dict[str, Any]) -> list[str]:
    rows = [
        "| set (questions) | float32 | | nDCG@10 | difference (95% interval) | correlation |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for set_name, found in results["sets"].items():
        for name, one in found["others"].items():
            change = one["change"]
            rows.append(
                f"| {set_name} ({found['questions']}) | {found['value']:.4f} | "
                f"{name} | {one['value']:.4f} | "
                f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f}) | "
                f"{one['correlation']:.4f} |"
            )
    return rows
