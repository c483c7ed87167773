"""The table of injected faults, as Markdown."""

from __future__ import annotations

from typing import Any, Final

_MODELS: Final = {"words": "a backend that counts words", "mini": "mini, torch"}


def faults_table(results: dict[str, Any]) -> str:
    """Return what came of the requests, how often each fault was injected, and how."""
    lines = [
        (
            "| backend | faults | requests | right | in part, in time | error | cancelled "
            "| **lost** | **wrong** |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, title in _MODELS.items():
        found = results[name]
        outcomes = found["outcomes"]
        counts = [outcomes.get(kind, 0) for kind in ("right", "partly", "error", "cancelled")]
        cells = [found["faults_injected"], found["requests"], *counts]
        shown = " | ".join(f"{count:,}" for count in cells)
        lines.append(f"| {title} | {shown} | **{found['lost']}** | **{found['wrong']}** |")
    kinds = results["words"]["faults"]
    each = ", ".join(
        f"{kind} {sum(results[name]['faults'][kind] for name in _MODELS):,}" for kind in kinds
    )
    left = sum(results[name][kind] for name in _MODELS for kind in ("tokens_left", "threads_left"))
    engines = sum(results[name]["engines"] for name in _MODELS)
    after = sum(results[name]["right_after_the_faults"] for name in _MODELS)
    compared = sum(results[name]["scores_compared"] for name in _MODELS)
    about = results["environment"]
    return "\n".join(
        [
            *lines,
            "",
            (
                f"Injected: {each}. {compared:,} scores were compared; {after} of {engines} "
                "engines scored everything right once the faults were over, and "
                f"{left} threads or queued tokens were left. {about['cpu']}, "
                f"commit {about['commit']}. "
                f"`{results['command']}` makes it anew."
            ),
        ]
    )
