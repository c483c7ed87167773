"""The model card, filled from the figures that lie beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any, Final

from rerank_plugins.errors import InvalidInputError

TEMPLATE: Final = Path(__file__).with_name("card.template.md")
CARD: Final = "MODEL_CARD.md"
_KINDS: Final = {
    "window": "questions on windows",
    "passage": "on whole passages",
    "sentence": "on sentences",
    "faq": "careless forms of questions on questions with their answers",
    "question": "on questions alone",
    "paragraph": "sentences on the paragraph that they were taken out of",
    "phrase": "phrases on windows",
}


def write_card(folder: Path) -> None:
    """Write ``MODEL_CARD.md``.

    Raises:
        InvalidInputError: If a file of figures is missing.
    """
    training, calibration, evaluation = (
        _read(folder / f"{name}.json") for name in ("training", "calibration", "evaluation")
    )
    settings = training["settings"]
    own, mine = settings["train"], settings["mine"]
    counts = {
        kind: sum(source["lists"].get(kind, 0) for source in settings["sources"].values())
        for kind in _KINDS
    }
    asked = {name: one["questions"] for name, one in evaluation["sets"].items()}
    values = {
        **{key: own[key] for key in ("temperature", "label_share", "pointwise", "learning_rate")},
        **{key: own[key] for key in ("warmup", "average", "max_length")},
        **{
            key: mine[key] for key in ("size", "hard", "depth", "lexical", "lexical_depth", "given")
        },
        "start": f"{training['settings']['export']['start']:.0%}",
        "lists_a_step": own["lists"],
        "steps": f"{training['steps']:,}",
        "lists": f"{training['lists']:,}",
        "tokens": f"{training['tokens'] / 1e6:.1f}",
        "prepared": f"{training['lists_prepared']:,}",
        "kinds": "Lists: " + ", ".join(f"{counts[kind]:,} {_KINDS[kind]}" for kind in _KINDS) + ".",
        "questions": ", ".join(f"{count:,} questions of {name}" for name, count in asked.items()),
        "quality": quality_table(evaluation),
        "comparisons": comparison_table(evaluation),
        "validation_lists": calibration["lists"],
        "validation_model": f"{training['validation']['model']['all']['nDCG@10']:.3f}",
        "validation_dense": f"{training['validation']['bi-encoder']['all']['nDCG@10']:.3f}",
        "fitted": f"{calibration['temperature']:.3f}",
        "pairs": f"{calibration['pairs']:,}",
        "ece": f"{calibration['calibration_error']:.3f}",
        "plain_ece": f"{calibration['calibration_error_at_1']:.3f}",
    }
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(values)
    (folder / CARD).write_text(text, encoding="utf-8")


def quality_table(evaluation: dict[str, Any]) -> str:
    """Return the systems' figures as Markdown, a line a system."""
    sets = evaluation["sets"]
    lines = ["| system | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
    for system in next(iter(sets.values()))["systems"]:
        cells = [
            " / ".join(_mean(one["systems"][system][key]) for key in ("nDCG@10", "RR@10"))
            for one in sets.values()
        ]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparison_table(evaluation: dict[str, Any]) -> str:
    """Return the paired differences as Markdown, a line a pair of systems."""
    sets = evaluation["sets"]
    lines = ["| system | against | " + " | ".join(sets) + " |", "|---" * (len(sets) + 2) + "|"]
    for row, pair in enumerate(next(iter(sets.values()))["comparisons"]):
        cells = []
        for one in sets.values():
            found = one["comparisons"][row]
            gain = found["gain"]
            cells.append(
                f"{gain['mean']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f}), "
                f"p {found['p']:.2g}"
            )
        lines.append(f"| {pair['second']} | {pair['first']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{file} cannot be read ({error}); run the steps export and evaluate first."
        raise InvalidInputError(message) from error
    return found
