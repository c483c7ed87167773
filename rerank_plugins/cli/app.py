"""The commands, and how their errors look."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rerank_plugins import __version__
from rerank_plugins.cli.batch import batch
from rerank_plugins.cli.demo import demo
from rerank_plugins.cli.evaluate import evaluate, plan
from rerank_plugins.cli.options import err, out
from rerank_plugins.cli.rerank import rerank
from rerank_plugins.cli.serve import serve
from rerank_plugins.errors import RerankError


class _Commands(TyperGroup):
    """Shows an error of this package as one message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  (typer's own type is private)
        try:
            return super().invoke(ctx)
        except RerankError as error:
            err.print(f"rerank-plugins: {error}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Commands,
    help="Two-stage retrieval: a bi-encoder finds, a cross-encoder puts the best first.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(evaluate)
app.command()(plan)
app.command()(rerank)
app.command()(serve)
app.command()(batch)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  (a callback of typer)
    if wanted:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Hold the options that stand before a command."""
    del version  # its callback has done the work
