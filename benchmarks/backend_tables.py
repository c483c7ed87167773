"""Tables of docs/models.md that are made of measurements."""

from __future__ import annotations

from statistics import median
from typing import Any, Final

FIELDS: Final = ("first_score_s", "warm_ms", "resident_mib", "peak_mib")
"""What is measured of a backend; see :func:`benchmarks.load.cold.measure_cold`."""


def backends_table(results: dict[str, Any]) -> str:
    """Return the table as Markdown, with how it was measured below it."""
    lines = [
        "| model | backend | computes in | first score | warm | memory | at most |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["rows"]:
        first, warm, memory, peak = (median(row[field]) for field in FIELDS)
        lines.append(
            f"| {row['model']} | `{row['backend']}` | {row['dtype']} "
            f"| {first:.1f} s | {warm:.0f} ms | {memory:.0f} MiB | {peak:.0f} MiB |"
        )
    about = results["environment"]
    shape = results["decoder"]
    return "\n".join(
        [
            *lines,
            "",
            (
                f"From a bare interpreter to the first score, imports included; medians of "
                f"{results['rounds']} processes that take turns, "
                f"{results['documents']} passages a request, on {about['cores']} cores of "
                f"{about['cpu']}; commit {about['commit']}. The random decoder has "
                f"{shape['layers']} layers of width {shape['width']}. "
                "`python -m benchmarks.backends` makes it anew."
            ),
        ]
    )


def decoder_table(results: dict[str, Any]) -> str:
    """Return what a kept prefix gains, as Markdown."""
    about, model = results["environment"], results["model"]
    lines = ["| over | median ratio |", "| --- | --- |"]
    lines += [
        f"| {name} | {results[field]:.2f} |"
        for name, field in (
            ("the same without keeping the prefix", "over_whole_prompt"),
            ("sentence-transformers", "over_sentence_transformers"),
        )
    ]
    share = results["shared_tokens"] / results["tokens"]
    return "\n".join(
        [
            *lines,
            "",
            (
                f"{results['queries']} queries with {results['documents']} passages each, "
                f"{share:.0%} of the tokens in the shared prefix; a random {model['architecture']} "
                f"of {model['layers']} layers and width {model['width']}, {model['dtype']}, on "
                f"{about['cores']} cores of {about['cpu']}; largest difference of scores "
                f"{results['largest_difference']:.1e} of {results['spread_of_scores']:.1f}; commit "
                f"{about['commit']}. `python -m benchmarks.decoder` makes it anew."
            ),
        ]
    )
