"""The table of golden scores, as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.environment import versions


def golden_table(results: dict[str, Any]) -> str:
    """Return how far each way is from the reference, and below it how that was measured."""
    lines = [
        (
            "| way | largest difference | allowed | mean | Kendall's tau | allowed | least tau "
            "| another first |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results["ways"].items():
        if "refused" in found:
            lines.append(f"| {name} | refused here: this CPU does not compute it | | | | | | |")
            continue
        lines.append(
            f"| {name} | {found['largest_difference']:.1e} | {found['allowed_difference']:g} "
            f"| {found['mean_difference']:.1e} | {found['kendall_tau']:.4f} "
            f"| {found['allowed_tau']:g} | {found['least_kendall_tau']:.3f} "
            f"| {found['other_first']} of {results['questions']} |"
        )
    about = results["environment"]
    return "\n".join(
        [
            *lines,
            "",
            (
                f"{results['pairs']} pairs of {results['questions']} questions; logits from "
                f"{results['lowest']:.1f} to {results['highest']:.1f}. {about['cpu']}, "
                f"{versions(about)}; commit {about['commit']}. "
                "`python -m benchmarks.golden` makes the golden scores and this table's figures "
                "anew."
            ),
        ]
    )
