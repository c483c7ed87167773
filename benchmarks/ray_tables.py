"""Tables of what was measured on several processes: Ray Serve, and batches."""

from __future__ import annotations

from statistics import median
from typing import Any


def ray_table(results: dict[str, Any]) -> str:
    """Return throughput by replicas, and what a kill costs, as Markdown."""
    lines = ["| What | Measured |", "| --- | --- |"]
    speed = results["throughput"]
    one, two = (median(speed["pairs_per_second"][count]) for count in ("1", "2"))
    lines.append(
        f"| {speed['clients']} clients, {speed['documents']} passages a call: pairs a second with "
        f"1 and with 2 replicas, a core each | {one:.0f} and {two:.0f}, "
        f"{speed['ratio']:.2f} times |"
    )
    names = {"Reranker": "a scoring replica", "Ingress": "an ingress process"}
    for name, what in names.items():
        found = results["kill"][name]
        lines.append(
            f"| `kill -9` of {what} of two under load, {found['kills']} times, clients that never "
            f"ask again | {found['calls']} calls, {found['failed']} failed |"
        )
    return "\n".join([*lines, "", _machine(speed, "python -m benchmarks.ray_scaling")])


def batch_table(results: dict[str, Any]) -> str:
    """Return a real batch and the simulated one as Markdown."""
    real, simulated = results["real"], results["simulated"]
    lines = [
        (
            f"Measured: {real['scored_pairs']:,} pairs of `mini` by {real['actors']} actors in "
            f"{real['seconds']:.0f} s, {real['pairs_per_second']:.0f} pairs a second, all counted; "
            f"{real['rows']:,} rows in, {real['ranked']:,} ranked, {real['dead']:,} dead letters. "
            f"The same command again took {real['resumed_s']:.1f} s. Scores of "
            f"{real['checked_queries']} queries differ from those of the query alone by at most "
            f"{real['largest_difference']:.0e}."
        ),
        "",
        (
            f"Simulated: {simulated['pairs']:,} pairs of {simulated['tokens_a_pair']:.0f} tokens, "
            f"one list of {simulated['long_list']:,} among lists of 100, by the cost model learned "
            f"on this machine ({simulated['overhead_s'] * 1000:.1f} ms a batch and "
            f"{simulated['per_token_s'] * 1e6:.0f} µs a token, {simulated['relative_error']:.0%} "
            f"off on average); {simulated['start_s']:.0f} s to start. Assumed: actors as fast as "
            "this process, none fails, reading and writing are free."
        ),
        "",
        "| actors | hours | share of the ideal | hours if the long list is not split |",
        "| --- | --- | --- | --- |",
    ]
    for actors, found in simulated["actors"].items():
        whole, unsplit = (found[name] / 3_600 for name in ("seconds", "seconds_unsplit"))
        lines.append(f"| {actors} | {whole:.2f} | {found['efficiency']:.0%} | {unsplit:.2f} |")
    return "\n".join([*lines, "", _machine(real, "python -m benchmarks.batch DATA")])


def _machine(found: dict[str, Any], command: str) -> str:
    about = found["environment"]
    return (
        f"{about['cores']} cores of {about['cpu']}, Python {about['python']}, torch "
        f"{about['packages']['torch']}; commit {about['commit']}. `{command}` makes it anew, and "
        "`python -m benchmarks.tables` this table."
    )
