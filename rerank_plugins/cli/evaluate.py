"""``rerank-plugins evaluate`` and ``rerank-plugins plan``: measurements on labeled questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank_plugins._lazy import require
from rerank_plugins.cli.options import err, out, reranker_settings
from rerank_plugins.config import MINI, RerankerSettings
from rerank_plugins.errors import ConfigurationError

Data = Annotated[
    Path, typer.Argument(metavar="DATA", help="Folder with corpus, queries and qrels (BEIR).")
]
Models = Annotated[
    str, typer.Option(help="Cross-encoders, separated by commas: mini, Hub names, folders.")
]
Encoder = Annotated[str, typer.Option(help="Bi-encoder: mini, a Hub name or a folder.")]
Split = Annotated[str, typer.Option(help="Judgments to read: qrels/SPLIT.tsv.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


def evaluate(
    data: Data,
    *,
    models: Models = MINI,
    depths: Annotated[
        str, typer.Option(help="Numbers of candidates to rerank, separated by commas.")
    ] = "10,20,50,100",
    option: Annotated[
        list[str] | None,
        typer.Option(help="Settings to try, as in dtype=bfloat16,max_length=256; may be repeated."),
    ] = None,
    encoder: Encoder = MINI,
    split: Split = "test",
    folder: Annotated[
        Path | None, typer.Option(help="Folder for intermediate results, to resume from.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure models, options and depths on your labeled questions."""
    _require_extra()
    from rerank_plugins.evaluation import sweep  # noqa: PLC0415  (keeps --help fast)

    result = sweep(
        data,
        _words(models),
        [_depth(word) for word in _words(depths)],
        [_settings(text) for text in option] if option else [{}],
        encoder=encoder,
        split=split,
        folder=folder,
    )
    if as_json:
        out.out(json.dumps(result.to_dict()))
    else:
        out.print(result)


def plan(
    data: Data,
    *,
    budget_ms: Annotated[
        float, typer.Option(help="Milliseconds per question for 95% of the questions.")
    ] = 100.0,
    quality: Annotated[
        float, typer.Option(help="Share of the best quality in the budget that is good enough.")
    ] = 0.99,
    models: Models = MINI,
    encoder: Encoder = MINI,
    split: Split = "test",
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Ignore the judgments, if there are any.")
    ] = False,
    max_questions: Annotated[
        int, typer.Option(help="Maximum number of questions to sample.")
    ] = 300,
    time_limit: Annotated[float, typer.Option(help="Approximate seconds for the sweep.")] = 150.0,
    plot: Annotated[
        Path | None, typer.Option(help="PNG or SVG file for a plot of quality against latency.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine on your data and recommend a setup, with its code."""
    _require_extra()
    if plot is not None:
        require("matplotlib", "plot")  # fails before the work starts
    from rerank_plugins.evaluation import plan as make_plan  # noqa: PLC0415  (keeps --help fast)

    result = make_plan(
        data,
        budget_ms,
        quality=quality,
        models=_words(models),
        encoder=encoder,
        split=None if no_labels else split,
        max_questions=max_questions,
        time_limit_s=time_limit,
    )
    if plot is not None:
        result.plot(plot)
    if as_json:
        out.out(json.dumps(result.to_dict()))
        return
    out.print(result)
    for name, code in (("LangChain", result.langchain), ("LlamaIndex", result.llama_index)):
        out.print(f"\n# {name}", style="bold")
        out.out(code)
    if plot is not None:
        err.print(f"The plot is in {plot}.", markup=False)


def _require_extra() -> None:
    for module in ("ir_measures", "scipy"):
        require(module, "evaluation")


def _words(text: str) -> list[str]:
    """Return the words of a comma-separated list.

    >>> _words("mini, other")
    ['mini', 'other']
    """
    return [word.strip() for word in text.split(",") if word.strip()]


def _depth(word: str) -> int:
    try:
        return int(word)
    except ValueError as error:
        message = f"--depths contains {word!r}; give integers separated by commas, as in 10,50,100."
        raise ConfigurationError(message) from error


def _settings(text: str) -> dict[str, Any]:
    """Return the settings of the reranker for ``NAME=VALUE`` words with names of options.

    A value that is not JSON is a string.

    >>> _settings("dtype=bfloat16,max-length=256")
    {'dtype': 'bfloat16', 'max_length': 256}
    >>> _settings("fusion=weighted,fusion_weight=0.3")
    {'fusion': Fusion(method='weighted', weight=0.3)}
    """
    options: dict[str, Any] = {}
    for word in _words(text):
        name, equals, value = word.partition("=")
        if not equals:
            message = (
                f"--option is {text!r}; give NAME=VALUE, separated by commas, as in "
                "dtype=bfloat16,max_length=256."
            )
            raise ConfigurationError(message)
        try:
            parsed = json.loads(value)  # numbers, true, false, null
        except ValueError:
            parsed = value
        options[name.replace("-", "_")] = parsed
    defaults = {name: field.default for name, field in RerankerSettings.model_fields.items()}
    return {
        name: value
        for name, value in reranker_settings(options).items()
        if name in options or value != defaults[name]
    }
