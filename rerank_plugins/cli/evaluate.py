"""``rerank-plugins eval``: quality and latency of models and depths on labelled questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank_plugins._optional import require
from rerank_plugins.cli._console import out
from rerank_plugins.core.config import MINI
from rerank_plugins.errors import ConfigurationError

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="Folder with corpus, queries and qrels (BEIR).")
]
Models = Annotated[
    str, typer.Option(help="Cross-encoders, separated by commas: mini, Hub names, folders.")
]
Encoder = Annotated[str, typer.Option(help="The bi-encoder: mini, a Hub name, a folder.")]
Split = Annotated[str, typer.Option(help="Which judgments: qrels/SPLIT.tsv.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


def evaluate(
    data: Data,
    *,
    models: Models = MINI,
    depths: Annotated[
        str, typer.Option(help="How many candidates to rerank, separated by commas.")
    ] = "10,20,50,100",
    option: Annotated[
        list[str] | None,
        typer.Option(help="Settings to try, as in dtype=bfloat16,max_length=256; repeatable."),
    ] = None,
    encoder: Encoder = MINI,
    split: Split = "test",
    folder: Annotated[
        Path | None,
        typer.Option(help="Keep results there as they come; the same command then goes on."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure models and depths on your own labelled questions."""
    for module in ("ir_measures", "scipy"):
        require(module, "evaluation")
    from rerank_plugins.evaluation.sweep import sweep  # noqa: PLC0415  (keeps --help quick)

    found = sweep(
        data,
        listed(models),
        [_count(one) for one in listed(depths)],
        [_settings(one) for one in option] if option else [{}],
        encoder=encoder,
        split=split,
        folder=folder,
    )
    if as_json:
        out.out(json.dumps(found.to_dict()), highlight=False)
    else:
        out.print(found)


def listed(text: str) -> list[str]:
    """Return the words of a list with commas.

    >>> listed("mini, other")
    ['mini', 'other']
    """
    return [word.strip() for word in text.split(",") if word.strip()]


def _count(word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        message = f"--depths holds {word!r}; give numbers, as in 10,50,100."
        raise ConfigurationError(message) from error


def _settings(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in listed(text):
        name, equals, value = word.partition("=")
        if not equals:
            message = f"--option is {text!r}; give NAME=VALUE, separated by commas."
            raise ConfigurationError(message)
        try:
            found[name.replace("-", "_")] = json.loads(value)  # numbers, true, false, null
        except ValueError:
            found[name.replace("-", "_")] = value
    return found
