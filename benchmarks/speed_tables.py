"""The tables of speed, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from benchmarks.rows import Row, target_lines
from benchmarks.speed.profiled import PRODUCTS
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.workloads import TEXT_SETS

_CLOSE: Final = "mini/nq/10"
_MAIN: Final = "mini/nq/100"
_AIMS: Final = {
    "ours": {_MAIN: 2.0, _CLOSE: 1.5},
    "ours-bfloat16": {_MAIN: 3.5, _CLOSE: 2.5},
    "ours-openvino-int8": {_MAIN: 6.0, _CLOSE: 4.0},
}
_SHARES: Final = {"xlmr-large": 0.85, "mini": 0.75, "minilm-l12": 0.75}
_MOST_OVERHEAD: Final = 0.03
_SLOPE_WITHIN: Final = 0.1


def peers_table(results: dict[str, Any]) -> str:
    """Return everybody's speed on the cells that everybody was measured on."""
    cells = [results["cells"][name] for name in (_CLOSE, _MAIN) if name in results["cells"]]
    header = ["system", "computes in"]
    for cell in cells:
        header += [f"times as fast, {cell['passages']} passages", "pairs/s", "p50 / p95, ms"]
    header += ["share of limit", "padding", "memory, MiB"]
    lines = [_line(header), _line(["---"] * len(header))]
    last = cells[-1]["systems"]
    for name, one in sorted(last.items(), key=lambda item: -item[1]["speedup"]):
        about = results["systems"][name]
        values = [about["title"], about["dtype"]]
        for cell in cells:
            values += _speed(cell["systems"].get(name))
        lines.append(_line([*values, *_costs(one)]))
    return "\n".join([*lines, "", *_skipped(results), _how(results)])


def cells_table(results: dict[str, Any]) -> str:
    """Return what changes with the model, the texts and their number."""
    header = ["model", "texts", "passages", "system", "times as fast", "pairs/s", "p50 / p95, ms"]
    header += ["share of limit", "padding", "memory, MiB"]
    lines = [_line(header), _line(["---"] * len(header))]
    for cell in (cell for name, cell in results["cells"].items() if name not in (_CLOSE, _MAIN)):
        for name, one in sorted(cell["systems"].items(), key=lambda item: -item[1]["speedup"]):
            title = results["systems"][name]["title"]
            where = [SHAPES[cell["shape"]].title, cell["texts"], str(cell["passages"])]
            lines.append(_line([*where, title, *_speed(one), *_costs(one)]))
    about = "; ".join(
        f"{name}: {TEXT_SETS[name].about}, {_mean_tokens(results, name):.0f} tokens a pair"
        for name in dict.fromkeys(cell["texts"] for cell in results["cells"].values())
    )
    return "\n".join([*lines, "", f"{about}."])


def scores_table(results: dict[str, Any]) -> str:
    """Return whose scores are the same, and by how much the others' differ."""
    header = ["system", "versions", "scores are", "largest difference", "same", "top 10", "why"]
    lines = [_line(header), _line(["---"] * len(header))]
    for name, about in results["systems"].items():
        found = [
            cell["systems"][name]
            for cell in results["cells"].values()
            if cell["shape"] == "mini" and name in cell["systems"]
        ]
        if not found:
            continue
        differences = [one["largest_difference"] for one in found]
        difference = "no scores" if None in differences else f"{max(differences):.1e}"
        same = "yes" if all(one["equal"] for one in found) else "**no**"
        top = min(one["same_top"] for one in found)
        versions = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
        scale = {"logit": "logits", "probability": "probabilities"}[about["scale"]]
        values = [about["title"], versions, scale, difference, same, f"{top:.0%}", about["note"]]
        lines.append(_line(values))
    return "\n".join(lines)


def targets_table(results: dict[str, Any]) -> str:
    """Return what was aimed at for speed, and what was reached."""
    rows = list(_targets(results))
    return "\n".join(_judged(rows, quick=results["quick"]))


def claims_table(results: dict[str, Any]) -> str:
    """Return what adapters, length and number of pairs cost."""
    quick = any(found["quick"] for found in results.values())
    return "\n".join(_judged(list(_claims(results)), quick=quick))


def profile_table(results: dict[str, Any]) -> str:
    """Return where the time of a request goes, and what is left to gain."""
    return _shares(
        results["profile"],
        lambda found, share: (
            f"products run at {found['products_over_limit']:.0%} of the limit; the request does "
            f"useful work at {found['useful']:.0%} of it, and would at "
            f"{found['useful'] / share:.0%} if all but products took no time."
        ),
    )


def int8_profile_table(results: dict[str, Any]) -> str:
    """Return where the time of a request in int8 goes, and what is left to gain."""
    return _shares(
        results["profile_int8"],
        lambda found, share: (
            "products, with GELU and rounding in them, run at "
            f"{found['products_over_limit']:.0%} of what torch's int8 product reaches with larger "
            "matrices; at all of it a request would be "
            f"{1 / (1 - share + share * found['products_over_limit']):.2f} times as fast."
        ),
    )


def _shares(found: dict[str, Any], told: Callable[[dict[str, Any], float], str]) -> str:
    """Return a column for each number of passages, and below what is told of each."""
    about, counts = found["environment"], found["passages"]
    lines = [
        f"| work | {' | '.join(f'{count} passages' for count in counts)} |",
        f"| --- |{' --- |' * len(counts)}",
    ]
    *_, most = counts.values()
    for name in sorted(most["shares"], key=lambda name: -most["shares"][name]):
        cells = (f"{one['shares'][name]:.1%}" for one in counts.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    quick = " **A quick run, whose figures say little.**" if found["quick"] else ""
    below = (
        f"`mini`, {found['dtype']}, shares of the time, medians of {found['rounds']} requests on "
        f"one thread. {about['cpu']}, torch {about['packages']['torch']}; commit "
        f"{about['commit']}.{quick}"
    )
    sentences = [
        f"With {count} passages {told(one, one['shares'][PRODUCTS])}"
        for count, one in counts.items()
    ]
    return "\n".join([*lines, "", " ".join([*sentences, below])])


def _judged(rows: list[Row], *, quick: bool) -> list[str]:
    """Return the table; nothing is met or missed by a quick run."""
    if not quick:
        return target_lines(rows)
    lines = target_lines(row._replace(met=None) for row in rows)
    return [*lines, "", "**From a quick run, whose figures say little.**"]


def _targets(results: dict[str, Any]) -> Iterator[Row]:
    theirs = results["systems"][results["baseline"]]["title"]
    for name, aims in _AIMS.items():
        for where, aim in aims.items():
            one = results["cells"].get(where, {"systems": {}})["systems"].get(name)
            if one is None:
                continue
            title, count = results["systems"][name]["title"], results["cells"][where]["passages"]
            speed = one["speedup"]
            yield Row(
                f"{title}, {count} passages: times as fast as {theirs}",
                f"at least {aim:g}",
                f"{speed:.2f}",
                speed >= aim,
            )
    for shape, aim in _SHARES.items():
        found = [
            cell["systems"]["ours"]["share_of_limit"]
            for cell in results["cells"].values()
            if cell["shape"] == shape and "ours" in cell["systems"]
        ]
        if found:
            yield Row(
                f"useful work in float32, {SHAPES[shape].title}: share of the matrix-product limit",
                f"at least {aim:.0%}",
                f"{min(found):.0%} to {max(found):.0%}",
                min(found) >= aim,
            )


def _claims(results: Mapping[str, Any]) -> Iterator[Row]:
    if "overhead" in results:
        found = results["overhead"]
        for name, title in {"langchain": "LangChain", "llama_index": "LlamaIndex"}.items():
            over = found["over_core"][name]
            yield Row(
                f"{title}'s adapter at {found['passages']} passages ({found['dtype']}, "
                f"{found['rounds']} rounds): time over that of `Reranker.rank`",
                f"at most {_MOST_OVERHEAD:+.0%}",
                f"{over:+.1%}",
                over <= _MOST_OVERHEAD,
            )
    if "growth" in results:
        yield from _growth(results["growth"])
    if "pair_cost" in results:
        found = results["pair_cost"]
        for name, title in {
            "embedded": "documents embedded beforehand",
            "not_embedded": "documents embedded at the query",
        }.items():
            yield Row(
                f"one pair, cross-encoder over bi-encoder of the same shape ({found['passages']} "
                f"passages, {found['dtype']}), {title}",
                "said to be 5 to 10",
                f"{found['cross_encoder_over'][name]:.1f} ({found['pair_ms']['cross_encoder']:.2f} "
                f"and {found['pair_ms'][name]:.2f} ms a pair)",
            )


def _growth(found: dict[str, Any]) -> Iterator[Row]:
    sizes = found["sizes"]
    least, most = (f"{int(size):,}" for size in (min(sizes, key=int), max(sizes, key=int)))
    costs = ", ".join(f"{one['us_per_token']:.0f}" for one in sizes.values())
    yield Row(
        f"{least} to {most} pairs ({found['dtype']}): exponent of time over tokens",
        f"1, within {_SLOPE_WITHIN:.0%}",
        f"{found['slope']:.3f} ({costs} microseconds a token)",
        abs(found["slope"] - 1) <= _SLOPE_WITHIN,
    )
    yield Row(
        f"highest memory at {most} pairs over that at {int(sorted(sizes, key=int)[-2]):,}",
        f"at most their texts, {found['text_mib']:.1f} MiB",
        f"{found['memory_growth_mib']:+.1f} MiB",
        found["memory_growth_mib"] <= found["text_mib"],
    )


def _speed(one: dict[str, Any] | None) -> list[str]:
    if one is None:
        return ["", "", ""]
    times = f"{one['p50_ms']:.0f} / {one['p95_ms']:.0f}"
    return [f"{one['speedup']:.2f}", f"{one['pairs_per_s']:.1f}", times]


def _costs(one: dict[str, Any]) -> list[str]:
    padding = one["padding_share"]
    memory = f"{one['peak_mib']:.0f}"
    if "device_mib" in one:
        memory += f" + {one['device_mib']:.0f} on the GPU"
    shown = "" if padding is None else f"{padding:.0%}"
    return [f"{one['share_of_limit']:.0%}", shown, memory]


def _mean_tokens(results: dict[str, Any], texts: str) -> float:
    found = [
        cell["tokens_per_pair"] for cell in results["cells"].values() if cell["texts"] == texts
    ]
    return float(sum(found) / len(found))


def _skipped(results: dict[str, Any]) -> list[str]:
    reasons = [f"`{name}` ({why})" for name, why in results["skipped"].items()]
    return [f"Not measured: {', '.join(reasons)}.", ""] if reasons else []


def _how(results: dict[str, Any]) -> str:
    about = results["environment"]
    rounds = ", ".join(
        f"{cell['passages']} passages {cell['rounds']}"
        for name, cell in results["cells"].items()
        if name in (_CLOSE, _MAIN)
    )
    limits = [cell["limit_flops"]["float32"] / 1e9 for cell in results["cells"].values()]
    where = about["cpu"] if results["device"] == "cpu" else f"{results['device']}, {about['cpu']}"
    busy = max(cell["busy_elsewhere"] or 0 for cell in results["cells"].values())
    quick = " **A quick run, whose figures say little.**" if results["quick"] else ""
    return (
        f"{where}, {results['threads']} threads each; rounds: {rounds}; matrix-product limit "
        f"{min(limits):.0f} to {max(limits):.0f} GFLOP/s (float32); others used up to {busy:.0%} "
        f"of the cores; Python {about['python']}, torch {about['packages']['torch']}; commit "
        f"{about['commit']}.{quick}"
    )


def _line(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"
