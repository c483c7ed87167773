"""``rerank-plugins plan``: which setup, for your data, your machine and your budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rerank_plugins._optional import require
from rerank_plugins.cli._console import err, out
from rerank_plugins.cli.evaluate import AsJson, Data, Encoder, Models, Split, listed
from rerank_plugins.core.config import MINI


def plan(
    data: Data,
    *,
    budget_ms: Annotated[
        float, typer.Option(help="Milliseconds that 95% of questions must keep to.")
    ] = 100.0,
    quality: Annotated[
        float, typer.Option(help="Share of the best quality in the budget that is good enough.")
    ] = 0.99,
    models: Models = MINI,
    encoder: Encoder = MINI,
    split: Split = "test",
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="There are no judgments, or they are ignored.")
    ] = False,
    max_questions: Annotated[int, typer.Option(help="A sample of so many, at most.")] = 300,
    time_limit: Annotated[float, typer.Option(help="Seconds for scoring, about.")] = 150.0,
    plot: Annotated[
        Path | None, typer.Option(help="Draw quality against latency into this PNG or SVG file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine on your data and recommend a setup, with the code for it."""
    for module in ("ir_measures", "scipy"):
        require(module, "evaluation")
    if plot is not None:
        require("matplotlib", "plot")  # before the work, not after it
    from rerank_plugins.evaluation import plan as make  # noqa: PLC0415  (keeps --help quick)

    found = make(
        data,
        budget_ms,
        quality=quality,
        models=listed(models),
        encoder=encoder,
        split=None if no_labels else split,
        max_questions=max_questions,
        time_limit_s=time_limit,
    )
    if plot is not None:
        found.plot(plot)
    if as_json:
        out.out(json.dumps(found.to_dict()), highlight=False)
        return
    out.print(found)
    for name, code in (("LangChain", found.langchain), ("LlamaIndex", found.llama_index)):
        out.print(f"\n# {name}", highlight=False, style="bold")
        out.out(code, highlight=False)
    if plot is not None:
        err.print(f"The plot is in {plot}.", highlight=False, markup=False)
