"""Options that several commands have: which model, and where and how it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from rerank_plugins.core.config import Dtype, Optimize

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
    Optimize, typer.Option(help="compile has torch compile the model, at its first batches.")
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
