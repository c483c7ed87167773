"""Options that several commands have: which model, and where and how it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rerank_plugins.config import Activation, Dtype, Fusion, LongDocuments, Optimize

Model = Annotated[
    str, typer.Option(help='"mini" (embedded, English), a Hugging Face Hub name or a folder.')
]
Backend = Annotated[str, typer.Option(help="What computes; auto chooses by the model.")]
Device = Annotated[
    str | None,
    typer.Option(help="A torch device such as cuda:0 or cpu, or cuda:0,cuda:1; chosen by default."),
]
DataType = Annotated[Dtype, typer.Option(help="Data type of the arithmetic.")]
Optimizing = Annotated[
    Optimize,
    typer.Option(help="compile or reduce-overhead (with CUDA graphs) compiles the model."),
]
MaxLength = Annotated[int, typer.Option(help="Most tokens a pair may have.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]
CacheFolder = Annotated[str | None, typer.Option(help="Where downloads are kept.")]
LocalFilesOnly = Annotated[
    bool, typer.Option("--local-files-only", help="Use only what is already on this machine.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]

# How a ranking is made of scores; the names are those of the reranker's settings.

_RANKING: Final = "Ranking"
_READING: Final = "What the model reads"

ScoreThreshold = Annotated[
    float | None,
    typer.Option(help="Leave out documents with a lower score.", rich_help_panel=_RANKING),
]
ActivationOption = Annotated[
    Activation,
    typer.Option(
        "--activation",
        help="sigmoid for scores from 0 to 1, none for logits.",
        rich_help_panel=_RANKING,
    ),
]
CalibratorFile = Annotated[
    str | None,
    typer.Option(help="JSON file that makes probabilities of scores.", rich_help_panel=_RANKING),
]
FusionOption = Annotated[
    Fusion,
    typer.Option(
        "--fusion",
        help="rrf or weighted lets the first stage have a say: its scores, or the input's order.",
        rich_help_panel=_RANKING,
    ),
]
FusionWeight = Annotated[
    float,
    typer.Option(help="The model's share in a fusion, 0 to 1.", rich_help_panel=_RANKING),
]
DropSimilar = Annotated[
    float | None,
    typer.Option(
        help="Leave out documents this similar to a better one, 0 to 1.", rich_help_panel=_RANKING
    ),
]
SimilarityModel = Annotated[
    str,
    typer.Option(help="The bi-encoder that tells what is similar.", rich_help_panel=_RANKING),
]
LongDocumentsOption = Annotated[
    LongDocuments,
    typer.Option(
        "--long-documents",
        help="truncate, or read long documents whole in windows.",
        rich_help_panel=_READING,
    ),
]
WindowOverlap = Annotated[
    int,
    typer.Option(
        help="Tokens that a window shares with the one before it.", rich_help_panel=_READING
    ),
]
MaxWindows = Annotated[
    int,
    typer.Option(
        help="Most windows of a document, spread evenly over it.", rich_help_panel=_READING
    ),
]
BestWindows = Annotated[
    int,
    typer.Option(
        help="A document's score is the mean of its best so many windows.",
        rich_help_panel=_READING,
    ),
]
QueryPrompt = Annotated[
    str | None,
    typer.Option(
        help="Put before the query; the model's own by default.", rich_help_panel=_READING
    ),
]
DocumentPrompt = Annotated[
    str | None,
    typer.Option(
        help="Put before documents; the model's own by default.", rich_help_panel=_READING
    ),
]
CacheDir = Annotated[
    str | None, typer.Option(help="Folder for scores that outlast the process; none by default.")
]
CacheDirMb = Annotated[float, typer.Option(help="Megabytes of that folder.")]


out: Final = Console()
err: Final = Console(stderr=True)


def printable(text: str) -> str:
    r"""Return the text on one line, without what would control a terminal.

    >>> printable("a\n\x1b[31mb\ud800")
    'a [31mb'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress bars on standard error while the block runs; nothing where it is a file."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        yield bars
