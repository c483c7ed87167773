"""The tables of what each way of searching finds, and how fast."""

from __future__ import annotations

from typing import Any, Final

_ABOUT: Final = {
    "squad-dev": "questions on Wikipedia paragraphs, home ground of `mini`",
    "nq-gold": "search queries, Wikipedia passages",
    "stackfaq": "paraphrased questions on software",
    "vaswani": "keywords, physics abstracts",
}
_MARKS: Final = {"better": " ▲", "worse": " ▼", "no clear difference": ""}


def quality_table(results: dict[str, Any]) -> str:
    """Return nDCG@10 of all systems on all sets as Markdown, with how it was measured below."""
    sets = results["sets"]
    lines = [
        f"| nDCG@10 (95% interval) | {' | '.join(sets)} | ms a question |",
        f"| --- |{' --- |' * len(sets)} --- |",
    ]
    for name in next(iter(sets.values()))["systems"]:
        found = [one["systems"][name] for one in sets.values()]
        cells = [_cell(one["nDCG@10"]) + _MARKS[one["gain"]["verdict"]] for one in found]
        times = sorted(one["latency_ms"]["p50"] for one in found)
        lines.append(f"| {name} | {' | '.join(cells)} | {_range(times[0], times[-1])} |")
    return "\n".join([*lines, "", _note(results)])


def quality_sets_table(results: dict[str, Any]) -> str:
    """Return every figure of every system, set after set, as Markdown."""
    lines = [
        (
            "| set | system | nDCG@10 | MRR@10 | recall@50 | over the bi-encoder (nDCG@10) | "
            "ms, median | ms, 95th percentile |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for set_name, found in results["sets"].items():
        for name, one in found["systems"].items():
            gain, taken = one["gain"], one["latency_ms"]
            change = f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
            lines.append(
                f"| {set_name} | {name} | {_cell(one['nDCG@10'])} | {_cell(one['RR@10'])} | "
                f"{one['R@50']['mean']:.3f} | {change}, {gain['verdict']} | "
                f"{_whole(taken['p50'])} | {_whole(taken['p95'])} |"
            )
    return "\n".join(lines)


def _cell(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ({value['low']:.2f} to {value['high']:.2f})"


def _range(least: float, most: float) -> str:
    ends = dict.fromkeys((_whole(least), _whole(most)))
    return " to ".join(ends)


def _whole(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 1 else "under 1"


def _note(results: dict[str, Any]) -> str:
    about, sets = results["environment"], results["sets"]
    kinds = "; ".join(
        f"{name}: {_ABOUT[name]} ({one['questions']} of them, {one['documents']:,} documents)"
        for name, one in sets.items()
    )
    timed = max(one["timed"] for one in sets.values())
    return (
        f"▲ better, ▼ worse than the bi-encoder alone (all-MiniLM-L6-v2), paired bootstrap over "
        f"questions. {kinds}. `mini` in {results['dtypes']['mini']}, and int8 by OpenVINO; BM25 by "
        f"bm25s; the fusion is half and half. Time: from the question to the ranking, median of "
        f"{timed} questions, least to most over the sets; {about['cores']} cores of "
        f"{about['cpu']}. `python -m benchmarks.quality` makes it anew."
    )
