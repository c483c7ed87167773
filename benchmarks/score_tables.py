"""The tables of calibration and fusion, as Markdown."""

from __future__ import annotations

from typing import Any, Final

_CALIBRATED: Final = {
    "sigmoid": "sigmoid, not calibrated",
    "platt": "Platt",
    "isotonic": "isotonic",
}
_FUSED: Final = {
    "rrf": "`rrf`, weight 0.5",
    "weighted_ranks": "`weighted`, weight 0.5, ranks only",
    "weighted": "`weighted`, weight 0.5",
    "fitted": "`weighted`, fitted",
}


def calibration_table(results: dict[str, Any]) -> str:
    """Return errors and what the thresholds reach, with how they were measured below."""
    aim = f"{results['precision']:g}"
    lines = [
        f"| set | scores | calibration error | Brier | precision for {aim} | recall there |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results["sets"].items():
        for method, title in _CALIBRATED.items():
            one = found[method]
            reached = "not reached" if one["precision"] is None else f"{one['precision']:.2f}"
            lines.append(
                f"| {name} | {title} | {one['calibration_error']:.3f} | {one['brier']:.4f} | "
                f"{reached} ({one['kept']} pairs) | {one['recall']:.2f} |"
            )
    counts = ", ".join(
        f"{name}: {found['pairs']} pairs of {found['questions']} questions, "
        f"{found['relevant']} relevant"
        for name, found in results["sets"].items()
    )
    return "\n".join(
        [
            *lines,
            "",
            (
                f"{_model(results)} {counts}. Five folds over questions: each is calibrated, and "
                f"its threshold chosen, by the other four. The sigmoid's threshold is {aim} "
                "itself. `python -m benchmarks.calibration` makes it anew."
            ),
        ]
    )


def fusion_table(results: dict[str, Any]) -> str:
    """Return what each fusion reaches against both stages, with how it was measured below."""
    lines = [
        "| set | ranking | nDCG@10 | over the bi-encoder | over the cross-encoder |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in results["sets"].items():
        alone = _difference(found["over_first_stage"])
        lines.append(f"| {name} | bi-encoder alone | {found['first_stage']:.3f} | | |")
        lines.append(f"| {name} | cross-encoder alone | {found['cross_encoder']:.3f} | {alone} | |")
        for method, title in _FUSED.items():
            one = found[method]
            weight = f" ({one['weight']:g})" if method == "fitted" else ""
            lines.append(
                f"| {name} | {title}{weight} | {one['nDCG@10']:.3f} | "
                f"{_difference(one['over_first_stage'])} | "
                f"{_difference(one['over_cross_encoder'])} |"
            )
    counts = ", ".join(f"{name} {found['questions']}" for name, found in results["sets"].items())
    return "\n".join(
        [
            *lines,
            "",
            (
                f"{_model(results)} Questions: {counts}. 95% intervals, paired bootstrap over "
                "questions. The fitted row is by cross-validation, with the weight of all "
                "questions in brackets. `python -m benchmarks.fusion` makes it anew."
            ),
        ]
    )


def _difference(gain: dict[str, Any]) -> str:
    return f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}), {gain['verdict']}"


def _model(results: dict[str, Any]) -> str:
    about = results["environment"]
    versions = ", ".join(f"{name} {about['packages'][name]}" for name in ("torch", "scikit-learn"))
    return (
        f"`{results['model']}` ({results['dtype']}; {about['cpu']}, {versions}; commit "
        f"{about['commit']}) over the best {results['depth']} of all-MiniLM-L6-v2."
    )
