"""The application with its commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rerank_plugins import __version__
from rerank_plugins.cli.batch import batch
from rerank_plugins.cli.demo import demo
from rerank_plugins.cli.evaluate import evaluate, plan
from rerank_plugins.cli.options import out, print_message
from rerank_plugins.cli.rerank import rerank
from rerank_plugins.cli.serve import serve
from rerank_plugins.errors import RerankError


class _Commands(TyperGroup):
    """Shows an error of this package as one message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  (typer's own type is private)
        try:
            return super().invoke(ctx)
        except RerankError as error:
            print_message(str(error))
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Commands,
    help="Two-stage retrieval: a bi-encoder finds candidates, a cross-encoder ranks them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, evaluate, plan, rerank, serve, batch):
    app.command()(command)


def _show_version(requested: bool) -> None:  # noqa: FBT001  (a callback of typer)
    if requested:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def global_options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Declare the options that come before a command."""
    del version  # handled by its callback
