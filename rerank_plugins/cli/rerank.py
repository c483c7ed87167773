"""``rerank-plugins rerank``: put the documents of a file in order."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from rerank_plugins import RankedDocument, Ranking, Reranker
from rerank_plugins.cli.options import (
    ActivationOption,
    Backend,
    BestWindows,
    CacheDir,
    CacheDirMb,
    CacheFolder,
    CalibratorFile,
    DataType,
    Device,
    DocumentPrompt,
    DropSimilar,
    FusionOption,
    FusionWeight,
    LocalFilesOnly,
    LongDocumentsOption,
    MaxLength,
    MaxWindows,
    Model,
    Optimizing,
    QueryPrompt,
    Revision,
    ScoreThreshold,
    SimilarityModel,
    TrustRemoteCode,
    WindowOverlap,
    err,
    out,
    printable,
)
from rerank_plugins.config import MINI, LongDocuments, OnError
from rerank_plugins.core.inputs import WINDOW, complete_scores, notes, shown, with_metadata
from rerank_plugins.errors import InvalidInputError

STDIN: Final = "-"
TEXT_FIELDS: Final = ("text", "content")
TEXT_FILES: Final = (".txt", ".md", ".rst")


class Item(NamedTuple):
    """A document: the text to score, the fields to show with it, and its name, if any."""

    text: str
    fields: dict[str, Any]
    name: str = ""


def read_items(source: str, *, jsonl: bool) -> list[Item]:
    """Read the documents of a file, of standard input or of a folder.

    Args:
        source: A file, a folder or ``"-"``.
        jsonl: Whether the input is JSONL; a file named ``*.jsonl`` always is.

    Raises:
        InvalidInputError: If it cannot be read or is not what it should be.
    """
    path = Path(source)
    if source != STDIN and path.is_dir():
        return _folder(path)
    text = _stdin() if source == STDIN else _file(path)
    # Not splitlines(): U+2028 and the like end no line of a file.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if jsonl or path.suffix == ".jsonl":
        return [_json(line, f"{source}, line {number}") for number, line in numbered]
    return [Item(line, {"line": number, "text": line}) for number, line in numbered]


def _folder(folder: Path) -> list[Item]:
    files = sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in TEXT_FILES and file.is_file()
    )
    if not files:
        message = f"{folder} holds no text file ({', '.join(TEXT_FILES)})."
        raise InvalidInputError(message)
    items = []
    for file in files:
        text, name = _file(file), str(file.relative_to(folder))
        items.append(Item(text, {"path": name, "text": text}, name))
    return items


def _file(file: Path) -> str:
    try:
        return _decode(file.read_bytes(), str(file))
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}. Give a file, a folder or - for stdin."
        raise InvalidInputError(message) from error


def _stdin() -> str:
    return _decode(sys.stdin.buffer.read(), "standard input")


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8 text (byte {error.start}). Convert it first."
        raise InvalidInputError(message) from error


def _json(line: str, where: str) -> Item:
    try:
        fields = json.loads(line)
    except ValueError as error:
        message = f"{where}: not JSON ({error})."
        raise InvalidInputError(message) from error
    if isinstance(fields, dict):
        for name in TEXT_FIELDS:
            if isinstance(fields.get(name), str):
                return Item(fields[name], fields)
    message = f"{where}: expected an object with its text in {' or '.join(TEXT_FIELDS)}."
    raise InvalidInputError(message)


def show_document(
    rank: int, document: RankedDocument, ranking: Ranking, item: Item, *, as_json: bool
) -> None:
    """Print a document of a ranking, as a line of text or of JSON."""
    score = shown(document)
    if as_json:
        fields = {
            **item.fields,
            "index": document.index,
            "relevance_score": score,
            "raw_score": document.raw_score if document.scored else None,
            "scored": document.scored,
            "truncated": document.truncated,
            "window": notes(ranking, document, item.text).get(WINDOW),
        }
        out.out(json.dumps(fields), highlight=False)
        return
    name = f"{printable(item.name)}: " if item.name else ""
    number = "   -  " if score is None else f"{score:.4f}"
    out.print(
        f"{rank:>3}  {number}  {name}{printable(item.text)}",
        markup=False,
        highlight=False,
        # Files and pipes get the whole text, a terminal gets one line.
        soft_wrap=not out.is_terminal,
        no_wrap=True,
        overflow="ellipsis",
    )


def remarks(
    ranking: Ranking, deadline_ms: float | None, long_documents: LongDocuments
) -> Iterator[str]:
    """Yield what the ranking does not show by itself, a sentence each."""
    stats = ranking.stats
    if not stats.documents:
        yield "no documents were given."
    if ranking.status == "failed":
        yield f"scoring failed, the documents keep their order: {ranking.error}"
    elif ranking.status == "partial":
        yield (
            f"{stats.documents - stats.scored} of {stats.documents} documents were not scored "
            f"within {deadline_ms:g} ms; they keep their order behind the others."
        )
    if stats.truncated and long_documents == "windows":
        yield (
            f"{stats.truncated} of {stats.documents} documents have more windows than are read; "
            "--max-windows reads more."
        )
    elif stats.truncated:
        yield (
            f"{stats.truncated} of {stats.documents} documents are longer than the model's "
            "reach; only their beginning was read. --long-documents windows reads them whole."
        )


def rerank(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[FILE|FOLDER|-]",
            help="Lines of text, JSONL with a field text or content, or a folder of text files.",
        ),
    ] = STDIN,
    *,
    query: Annotated[str, typer.Option("--query", "-q", help="What the documents should answer.")],
    top_n: Annotated[int | None, typer.Option(help="How many to show; all by default.")] = None,
    score_threshold: ScoreThreshold = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="The input is JSONL, whatever its name.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a document, with its fields.")
    ] = False,
    model: Model = MINI,
    backend: Backend = "auto",
    device: Device = None,
    dtype: DataType = "auto",
    optimize: Optimizing = "none",
    max_length: MaxLength = 512,
    activation: ActivationOption = "sigmoid",
    calibrator: CalibratorFile = None,
    fusion: FusionOption = "none",
    fusion_weight: FusionWeight = 0.5,
    retrieval_score_key: Annotated[
        str,
        typer.Option(help="JSONL field of the first stage's score.", rich_help_panel="Ranking"),
    ] = "score",
    drop_similar: DropSimilar = None,
    similarity_model: SimilarityModel = MINI,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds after which to stop scoring; loading the model is not counted.",
            rich_help_panel="Ranking",
        ),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            help="If scoring fails: raise, or passthrough the input's order.",
            rich_help_panel="Ranking",
        ),
    ] = "raise",
    long_documents: LongDocumentsOption = "truncate",
    window_overlap: WindowOverlap = 64,
    max_windows: MaxWindows = 32,
    best_windows: BestWindows = 1,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    metadata_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Field that the model reads before the text; may be given again.",
            rich_help_panel="What the model reads",
        ),
    ] = None,
    revision: Revision = None,
    cache_folder: CacheFolder = None,
    cache_dir: CacheDir = None,
    cache_dir_mb: CacheDirMb = 1024,
    local_files_only: LocalFilesOnly = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Rank documents for a query, best first."""
    reranker = Reranker(
        model,
        backend=backend,
        device=device,
        dtype=dtype,
        optimize=optimize,
        max_length=max_length,
        revision=revision,
        cache_folder=cache_folder,
        cache_dir=cache_dir,
        cache_dir_mb=cache_dir_mb,
        local_files_only=local_files_only,
        trust_remote_code=trust_remote_code,
        top_n=top_n,
        score_threshold=score_threshold,
        activation=activation,
        calibrator=calibrator,
        fusion=fusion,
        fusion_weight=fusion_weight,
        deadline_ms=deadline_ms,
        on_error=on_error,
        drop_similar=drop_similar,
        similarity_model=similarity_model,
        long_documents=long_documents,
        window_overlap=window_overlap,
        max_windows=max_windows,
        best_windows=best_windows,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
    )
    items = read_items(source, jsonl=jsonl)
    if items:
        reranker.warm_up()
    ranking = reranker.rank(
        query,
        [with_metadata(item.text, item.fields, metadata_key or []) for item in items],
        first_stage=complete_scores(item.fields.get(retrieval_score_key) for item in items),
    )
    for rank, document in enumerate(ranking, start=1):
        show_document(rank, document, ranking, items[document.index], as_json=as_json)
    for remark in remarks(ranking, deadline_ms, long_documents):
        err.print(f"rerank-plugins: {remark}", markup=False, highlight=False, soft_wrap=True)
