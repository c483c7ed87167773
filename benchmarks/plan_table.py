"""The table of docs/evaluation.md that holds the planner to its word."""

from __future__ import annotations

from typing import Any


def plan_table(results: dict[str, Any]) -> str:
    """Return what was predicted and what was measured, as Markdown."""
    about, made = results["environment"], results["plan"]
    lines = [
        "| option | predicted median | measured | ratio | calls under the predicted 95% |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {one['option']} | {one['predicted_p50_ms']:.0f} ms "
            f"| {one['measured_p50_ms']:.0f} ms | {one['ratio']:.2f} "
            f"| {one['under_predicted_p95']:.0%} |"
            for one in results["latency"]
        ),
    ]
    note = (
        f"{made['documents']:,} documents, {made['questions']} questions of {results['set']}, a "
        f"budget of {made['budget_ms']:.0f} ms: planned in {results['seconds']:.0f} s on "
        f"{about['cores']} cores of {about['cpu']}; commit {about['commit']}. Measured afterwards, "
        f"call by call. `python -m benchmarks.plan` makes it anew. The plan: {made['summary']}"
    )
    return "\n".join([*lines, "", note])
