"""The tables of servers and capacity, as Markdown."""

from __future__ import annotations

from typing import Any, Final

from rerank_plugins.evaluation.capacity import (
    DEVICES,
    SHAPES,
    Load,
    Replica,
    estimated_pairs_per_s,
    floor_pairs_per_s,
    plan,
)

TOKENS: Final = 256
DOCUMENTS: Final = 50
QUERIES_PER_S: Final = (100, 1_000, 10_000)
_MODELS: Final = ("MiniLM-L6", "XLM-R-large")


def servers_table(results: dict[str, Any]) -> str:
    """Return what both servers did under the same load, with the machine below it."""
    lines = [
        "| | `rerank-plugins serve` | Infinity | ratio | target |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows = (
        ("requests a second", "requests_per_s", ".2f", results["throughput_ratio"], "at least 2"),
        ("median latency, s", "p50_s", ".1f", None, ""),
        ("95th percentile of latency, s", "p95_s", ".1f", results["p95_ratio"], "at most 1"),
        ("largest memory, MiB", "peak_mib", ".0f", None, ""),
    )
    for title, key, style, found, target in rows:
        one, other = results[key]["ours"], results[key]["infinity"]
        shown = one / other if found is None else found
        lines.append(f"| {title} | {one:{style}} | {other:{style}} | {shown:.2f} | {target} |")
    machine = results["environment"]
    about = (
        f"{results['clients']} clients, {results['documents']} documents of `{results['set']}` a "
        f"request, {results['requests']} requests a round, {results['rounds']} rounds in turn; the "
        f"weights of `mini`; largest difference of a score {results['largest_difference']:.1e}. "
        f"{machine['cpu']}, {machine['cores']} cores. `make peers` and "
        "`python -m benchmarks.servers` make it anew."
    )
    return "\n".join([*lines, "", about])


def one_process_table(results: dict[str, Any]) -> str:
    """Return the latencies of one process at shares of what it answers at most."""
    most = results["requests_per_s"]
    lines = [
        "| share of the most | questions a second | median, s | 95th percentile, s |",
        "| --- | --- | --- | --- |",
    ]
    for one in results["levels"]:
        rate, median, p95 = one["rate"], one["p50_s"], one["p95_s"]
        lines.append(f"| {one['share']:.0%} | {rate:.1f} | {median:.2f} | {p95:.2f} |")
    machine = results["environment"]
    about = (
        f"Measured: `mini` in float32, {results['documents']} passages of `{results['set']}` a "
        f"question, {results['requests']} questions a row at random times; at most {most:.1f} "
        f"questions ({most * results['documents']:.0f} pairs) a second. {machine['cpu']}, "
        f"{machine['cores']} cores; commit {machine['commit']}. `python -m benchmarks.one_process` "
        "makes it anew."
    )
    return "\n".join([*lines, "", about])


def capacity_table(results: dict[str, Any]) -> str:
    """Return replicas by device, model and load; computed but for the host's share."""
    host = results["host"]
    lines = [
        f"| GPU | model | floor, pairs/s | estimate, pairs/s | {_heads()} |",
        "| --- | --- | --- | --- |" + " --- |" * len(QUERIES_PER_S),
    ]
    for device in DEVICES:
        for model in _MODELS:
            shape, rates = SHAPES[model], DEVICES[device]
            estimate = estimated_pairs_per_s(shape, rates, TOKENS)
            replica = Replica(estimate, **host)
            plans = [plan(Load(queries, DOCUMENTS), replica) for queries in QUERIES_PER_S]
            counts = " | ".join(
                f"{one.replicas:,}{' (host)' if one.bound == 'host' else ''}" for one in plans
            )
            floor = floor_pairs_per_s(shape, rates, TOKENS)
            lines.append(f"| {device} | {model} | {floor:,.0f} | {estimate:,.0f} | {counts} |")
    about = (
        f"Computed, for pairs of {TOKENS} tokens and {DOCUMENTS} documents a query; replicas busy "
        "60% of their time with one to spare. *host*: the process's own work binds before the "
        f"GPU; that is measured ({1_000 * host['request_s']:.1f} ms a request and "
        f"{1_000 * host['pair_s']:.2f} ms a pair, on {results['environment']['cpu']})."
    )
    return "\n".join([*lines, "", about])


def _heads() -> str:
    return " | ".join(f"replicas for {queries:,} queries/s" for queries in QUERIES_PER_S)
