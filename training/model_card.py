"""Step ``card``: the model card, filled from the figures in the model folder."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any, Final

from rerank_plugins.errors import InvalidInputError

FILE_NAME: Final = "MODEL_CARD.md"
_TEMPLATE: Final = Path(__file__).with_name("card.template.md")
_KINDS: Final = {
    "window": "questions with windows",
    "passage": "with whole passages",
    "sentence": "with sentences",
    "faq": "carelessly typed questions with questions and their answers",
    "question": "with questions alone",
    "paragraph": "sentences with the paragraph that they were removed from",
    "phrase": "phrases with windows",
}


def write_card(folder: Path) -> None:
    """Write ``MODEL_CARD.md`` into a model folder.

    Raises:
        InvalidInputError: If a file of figures is missing.
    """
    training, calibration, evaluation = (
        _read(folder / f"{name}.json") for name in ("training", "calibration", "evaluation")
    )
    settings = training["settings"]
    counts = {
        kind: sum(source["lists"].get(kind, 0) for source in settings["sources"].values())
        for kind in _KINDS
    }
    values = {
        **settings["mine"],
        **settings["train"],
        "initial_fraction": f"{settings['export']['initial_fraction']:.0%}",
        "steps": f"{training['steps']:,}",
        "lists": f"{training['lists']:,}",
        "tokens": f"{training['tokens'] / 1e6:.1f}",
        "prepared": f"{training['lists_prepared']:,}",
        "kinds": ", ".join(f"{counts[kind]:,} {name}" for kind, name in _KINDS.items()),
        "questions": ", ".join(
            f"{figures['questions']:,} questions of {name}"
            for name, figures in evaluation["sets"].items()
        ),
        "quality": _quality_table(evaluation["sets"]),
        "comparisons": _comparison_table(evaluation["sets"]),
        "validation_lists": calibration["lists"],
        "validation_model": f"{training['validation']['model']['all']['nDCG@10']:.3f}",
        "validation_dense": f"{training['validation']['bi-encoder']['all']['nDCG@10']:.3f}",
        "fitted": f"{calibration['temperature']:.3f}",
        "pairs": f"{calibration['pairs']:,}",
        "ece": f"{calibration['calibration_error']:.3f}",
        "plain_ece": f"{calibration['calibration_error_at_1']:.3f}",
    }
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(values)
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def _quality_table(sets: dict[str, Any]) -> str:
    """Return the figures of all systems as Markdown, one line per system."""
    lines = ["| system | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
    for system in next(iter(sets.values()))["systems"]:
        cells = [
            " / ".join(
                _interval(figures["systems"][system][measure]) for measure in ("nDCG@10", "RR@10")
            )
            for figures in sets.values()
        ]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _comparison_table(sets: dict[str, Any]) -> str:
    """Return the paired differences as Markdown, one line per pair of systems."""
    lines = ["| system | against | " + " | ".join(sets) + " |", "|---" * (len(sets) + 2) + "|"]
    for row, pair in enumerate(next(iter(sets.values()))["comparisons"]):
        cells = []
        for figures in sets.values():
            comparison = figures["comparisons"][row]
            gain = comparison["gain"]
            cells.append(
                f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}), "
                f"p {comparison['p']:.2g}"
            )
        lines.append(f"| {pair['second']} | {pair['first']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{file} cannot be read ({error}); run the steps export and evaluate first."
        raise InvalidInputError(message) from error
    return content
