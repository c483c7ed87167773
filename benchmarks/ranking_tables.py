"""The tables of long documents, deadlines and cascades, as Markdown."""

from __future__ import annotations

from typing import Any, Final

_READ: Final = {
    "truncate": '`"truncate"`: the beginning',
    "windows_1": '`"windows"`: the best window (MaxP)',
    "windows_2": '`"windows"`, mean of the best 2',
    "windows_3": '`"windows"`, mean of the best 3',
}
_TARGET: Final = {"cost": 0.25, "quality": 0.99}


def long_documents_table(results: dict[str, Any]) -> str:
    """Return what each way of reading reaches, with how it was measured below."""
    lines = [
        "| documents | reranking | nDCG@10 | over the bi-encoder | over `truncate` | tokens |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    counts = []
    for name, found in results["kinds"].items():
        lines.append(
            f"| {name} | none, the bi-encoder's order | {found['first_stage']:.3f} | | | |"
        )
        for way, title in _READ.items():
            one = found[way]
            over = "" if way == "truncate" else _gain(one["over_truncate"])
            lines.append(
                f"| {name} | {title} | {one['nDCG@10']:.3f} | {_gain(one['over_first_stage'])} | "
                f"{over} | {one['tokens']:,.0f} |"
            )
        counts.append(
            f"{name}: {found['documents']} documents, {found['questions']} questions, the "
            f"bi-encoder's best {found['depth']} reranked (they hold the right one for "
            f"{found['found']:.0%} of the questions), {found['truncate']['cut']:.0%} of them "
            "longer than the reach"
        )
    return "\n".join(
        [
            *lines,
            "",
            (
                f"squad-dev, its paragraphs joined again; {'; '.join(counts)}. "
                f"`{results['model']}` ({_machine(results, results['environment'])}). Tokens a "
                "question. 95% intervals, paired bootstrap over questions. "
                "`python -m benchmarks.long_documents` makes it anew."
            ),
        ]
    )


def deadline_table(results: dict[str, Any]) -> str:
    """Return what each budget buys, with how it was measured below."""
    lines = [
        "| set, first stage, fusion | budget | scored | late, p95 | nDCG@10 | over the first |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    counts = []
    for found in results["settings"].values():
        name = f"{found['data']}, {found['first_stage']}, {found['fusion']}"
        lines.append(f"| {name} | 0 | 0 | | {found['first_stage_value']:.3f} | |")
        for one in found["budgets"]:
            late = one["late_ms"]["p95"]
            met = "" if one["under_15_percent_and_one_pair"] else " (**over**)"
            lines.append(
                f"| {name} | {one['budget_ms']} ms | {one['scored']:.0f} | "
                f"{late:+.0f} ms, {one['late_p95_share']:+.0%}{met} | {one['nDCG@10']:.3f} | "
                f"{_interval(one['gain'])} |"
            )
        counts.append(
            f"{name}: {found['questions']} questions, one pair {found['one_pair_ms']:.0f} ms"
        )
    return "\n".join(
        [
            *lines,
            "",
            (
                f"`{results['model']}` ({_machine(results, results['environment'])}) over the "
                f"first stage's best {results['depth']}. {'; '.join(counts)}. Late is the answer's "
                "time beyond the budget, negative before it; **over** is more than 15% and one "
                "pair. 95% intervals, paired bootstrap over questions. "
                "`python -m benchmarks.deadline` makes it anew."
            ),
        ]
    )


def cascade_table(results: dict[str, Any]) -> str:
    """Return what each cascade saves and costs, with how it was measured below."""
    lines = [
        "| set | the cross-encoder reads | tokens | nDCG@10 | of the full | difference | met |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    counts, margins = [], []
    for name, found in results["quality"].items():
        full = found["full"]
        lines.append(
            f"| {name} | none, the bi-encoder's order | 0% | {found['first_stage']:.3f} | | | |"
        )
        for keep, one in found["cascades"].items():
            met = one["tokens_share"] <= _TARGET["cost"] and one["of_full"] >= _TARGET["quality"]
            lines.append(
                f"| {name} | the best {keep} | {one['tokens_share']:.1%} | {one['nDCG@10']:.3f} | "
                f"{one['of_full']:.1%} | {_interval(one['difference'])} | "
                f"{'yes' if met else '**no**'} |"
            )
        lines.append(
            f"| {name} | all {found['candidates']} | 100% | {full['nDCG@10']:.3f} | 100% | | |"
        )
        counts.append(
            f"{name} {found['questions']} questions, {full['tokens_a_question']:,.0f} tokens each"
        )
        margins.append(_margin(name, found["margin"]))
    return "\n".join(
        [
            *lines,
            "",
            (
                f"`{results['model']}` ({_machine(results, results['quality_environment'])}) over "
                "the best 1000 of all-MiniLM-L6-v2, whose embeddings of passages are stored. "
                f"{'; '.join(counts)}. 95% intervals, paired bootstrap over questions. "
                "Met is at most 25% of the tokens with at least 99% of the full nDCG@10. "
                f"{' '.join(margins)}{_timed(results)} "
                "`python -m benchmarks.cascade` makes it anew."
            ),
        ]
    )


def _margin(name: str, fitted: dict[str, Any]) -> str:
    bound = f"loss of at most {fitted['loss_bound']:g}"
    if fitted["margin"] is None:
        return f"On {name} no margin keeps the {bound}."
    return (
        f"A margin fitted for a {bound} on {fitted['questions']} questions of {name} (the best "
        f"{fitted['keep']} read) is {fitted['margin']:.3f}: {fitted['held_out_stopped']:.0%} of "
        f"held-out questions end with the bi-encoder and lose {fitted['held_out_loss']:.4f} on "
        f"average over all; {fitted['tokens_share']:.1%} of the tokens are left."
    )


def _timed(results: dict[str, Any]) -> str:
    told = [
        f" Processor time of the cascade that keeps {one['keep']}: {one['processor_share']:.1%} of "
        f"the full run's on {name} ({one['processor_s']['cascade']:.1f} and "
        f"{one['processor_s']['full']:.1f} s, median of {one['questions']} questions)."
        for name, one in results.get("timed", {}).items()
    ]
    return "".join(told)


def _gain(gain: dict[str, Any]) -> str:
    return f"{_interval(gain)}, {gain['verdict']}"


def _interval(gain: dict[str, Any]) -> str:
    return f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"


def _machine(results: dict[str, Any], about: dict[str, Any]) -> str:
    return (
        f"{results['dtype']}; {about['cores']} cores of {about['cpu']}, torch "
        f"{about['packages']['torch']}; commit {about['commit']}"
    )
