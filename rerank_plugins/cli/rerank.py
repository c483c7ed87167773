"""``rerank-plugins rerank``: rank the documents of a file, a folder or standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer

from rerank_plugins import RankedDocument, Ranking, Reranker
from rerank_plugins.cli.options import (
    out,
    print_message,
    printable,
    reranker_options,
    reranker_settings,
)
from rerank_plugins.core.inputs import (
    WINDOW,
    complete_scores,
    ranking_metadata,
    visible_score,
    with_metadata,
)
from rerank_plugins.errors import InvalidInputError

STDIN: Final = "-"
TEXT_FIELDS: Final = ("text", "content")
TEXT_FILES: Final = (".txt", ".md", ".rst")


# A single ranking needs no cache in memory, and its model is unloaded at the end.
@reranker_options(exclude=("idle_unload_s", "cache_mb", "cache_entries"))
def rerank(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[FILE|FOLDER|-]",
            help="Lines of text, JSONL with a field text or content, or a folder of text files.",
        ),
    ] = STDIN,
    *,
    query: Annotated[str, typer.Option("--query", "-q", help="Query to rank the documents for.")],
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Read JSONL, whatever the name of the file.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per document, with its input fields."),
    ] = False,
    retrieval_score_key: Annotated[
        str, typer.Option(help="JSONL field of the retrieval score.", rich_help_panel="Ranking")
    ] = "score",
    metadata_key: Annotated[
        list[str] | None,
        typer.Option(
            help="JSONL field to put before the text; may be repeated.",
            rich_help_panel="Model input",
        ),
    ] = None,
    **options: Any,  # noqa: ANN401  (values of the options of the reranker)
) -> None:
    """Rank documents for a query, best first."""
    reranker = Reranker(**reranker_settings(options))
    items = read_items(source, jsonl=jsonl)
    if items:
        reranker.warm_up()
    ranking = reranker.rank(
        query,
        [with_metadata(item.text, item.fields, metadata_key or []) for item in items],
        retrieval_scores=complete_scores(item.fields.get(retrieval_score_key) for item in items),
    )
    for rank, document in enumerate(ranking, start=1):
        print_document(rank, document, ranking, items[document.index], as_json=as_json)
    windows = options["long_documents"] == "windows"
    for warning in ranking_warnings(ranking, options["deadline_ms"], windows=windows):
        print_message(warning)


class Item(NamedTuple):
    """A document: the text to score, the fields to print with it, and its file name, if any."""

    text: str
    fields: dict[str, Any]
    name: str = ""


def read_items(source: str, *, jsonl: bool) -> list[Item]:
    """Read the documents of a file, of standard input or of a folder.

    The input is JSONL if ``jsonl`` is true or the file is named ``*.jsonl``.
    """
    path = Path(source)
    if source == STDIN:
        text = _decode(sys.stdin.buffer.read(), "standard input")
    elif path.is_dir():
        return _read_folder(path)
    else:
        text = _read_file(path)
    # Not splitlines(), which also splits at U+2028 and other characters within a line.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if jsonl or path.suffix == ".jsonl":
        return [_parse_item(line, f"{source}, line {number}") for number, line in numbered]
    return [Item(line, {"line": number, "text": line}) for number, line in numbered]


def print_document(
    rank: int, document: RankedDocument, ranking: Ranking, item: Item, *, as_json: bool
) -> None:
    """Print a document of a ranking as a line of text or of JSON."""
    score = visible_score(document)
    if as_json:
        fields = {
            **item.fields,
            "index": document.index,
            "relevance_score": score,
            "raw_score": document.raw_score if document.scored else None,
            "scored": document.scored,
            "truncated": document.truncated,
            "window": ranking_metadata(ranking, document, item.text).get(WINDOW),
        }
        out.out(json.dumps(fields))
        return
    name = f"{printable(item.name)}: " if item.name else ""
    number = "   -  " if score is None else f"{score:.4f}"
    out.print(
        f"{rank:>3}  {number}  {name}{printable(item.text)}",
        markup=False,
        # A file or a pipe gets the whole text, a terminal gets one line.
        soft_wrap=not out.is_terminal,
        no_wrap=True,
        overflow="ellipsis",
    )


def ranking_warnings(
    ranking: Ranking, deadline_ms: float | None, *, windows: bool
) -> Iterator[str]:
    """Yield one sentence for each limitation of a ranking."""
    stats = ranking.stats
    if not stats.documents:
        yield "the input has no documents."
    if ranking.status == "failed":
        yield f"scoring failed; the documents keep the order of the input: {ranking.error}"
    elif ranking.status == "partial":
        yield (
            f"{stats.documents - stats.scored} of {stats.documents} documents were not scored "
            f"within {deadline_ms:g} ms; they follow the others in the order of the input."
        )
    if stats.truncated and windows:
        yield (
            f"{stats.truncated} of {stats.documents} documents have more windows than "
            "--max-windows, so parts of them were not scored; increase it to score more."
        )
    elif stats.truncated:
        yield (
            f"{stats.truncated} of {stats.documents} documents exceed the maximum length, so "
            "only their beginning was scored; --long-documents windows scores all of it."
        )


def _read_folder(folder: Path) -> list[Item]:
    files = sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in TEXT_FILES and file.is_file()
    )
    if not files:
        message = (
            f"{folder} contains no text file ({', '.join(TEXT_FILES)}). Give a folder with text "
            "files, a file, or - for standard input."
        )
        raise InvalidInputError(message)
    texts = {str(file.relative_to(folder)): _read_file(file) for file in files}
    return [Item(text, {"path": name, "text": text}, name) for name, text in texts.items()]


def _read_file(file: Path) -> str:
    try:
        return _decode(file.read_bytes(), str(file))
    except OSError as error:
        message = (
            f"{file} cannot be read: {error.strerror}. Give a file, a folder, or - for standard "
            "input."
        )
        raise InvalidInputError(message) from error


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8 text (byte {error.start}). Convert it to UTF-8 first."
        raise InvalidInputError(message) from error


def _parse_item(line: str, location: str) -> Item:
    try:
        fields = json.loads(line)
    except ValueError as error:
        message = f"{location}: not JSON ({error}). Give one JSON object per line."
        raise InvalidInputError(message) from error
    if isinstance(fields, dict):
        for name in TEXT_FIELDS:
            if isinstance(fields.get(name), str):
                return Item(fields[name], fields)
    message = (
        f"{location}: expected an object with the text as a string in the field "
        f"{' or '.join(TEXT_FIELDS)}."
    )
    raise InvalidInputError(message)
