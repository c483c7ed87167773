"""Options that set a reranker, derived from the fields of :mod:`rerank_plugins.config`.

An option takes its default, its type and its help text from a field. The fields of a value
group, such as :class:`~rerank_plugins.Windows`, are separate options. :func:`reranker_options`
adds options to a command, and :func:`reranker_settings` turns their values into arguments of
:class:`~rerank_plugins.Reranker`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rerank_plugins.config import Cache, Dedup, Fusion, RerankerSettings, ValueGroup, Windows
from rerank_plugins.errors import ConfigurationError

out: Final = Console()
err: Final = Console(stderr=True)


def print_message(message: str) -> None:
    """Print a warning or an error of the command to standard error, on one line."""
    err.print(f"rerank-plugins: {message}", markup=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    r"""Return a text on one line, without the characters that control a terminal.

    >>> printable("a\n\x1b[31mb\ud800")
    'a [31mb'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@contextmanager
def progress() -> Iterator[Progress]:
    """Show progress bars while the block runs, if standard error is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        yield bars


Command = TypeVar("Command", bound=Callable[..., None])
Group = TypeVar("Group", bound=ValueGroup)


class Option(NamedTuple):
    """An option of the command line."""

    type: Any
    default: Any
    help: str
    panel: str


def option(
    field: str,
    panel: str,
    *,
    settings: type[BaseModel] = RerankerSettings,
    type: Any = None,  # noqa: ANN401  (any type that typer supports)
    help: str = "",
    **default: Any,  # noqa: ANN401
) -> Option:
    """Return the option that sets a field.

    Args:
        field: Name of the field.
        panel: Heading of the option in ``--help``.
        settings: The model that declares the field.
        type: Type on the command line, if it is not the type of the field.
        help: Help text, if it is not the description of the field.
        **default: ``default``, if it is not the default of the field.
    """
    info = settings.model_fields[field]
    return Option(
        type or info.annotation,
        default.get("default", info.default),
        help or _help_text(info.description or ""),
        panel,
    )


def _help_text(description: str) -> str:
    """Return a description without what concerns Python: quotes, and the meaning of None.

    >>> _help_text('Folder of models; None is the default one. "mini" needs no folder.')
    'Folder of models. mini needs no folder.'
    """
    clauses = re.split(r"(?<=[.;]) ", description.replace('"', ""))
    text = ""
    for clause in clauses:
        if clause.startswith("None "):
            text = f"{text.rstrip(' .;')}. "
        else:
            text += f"{clause} "
    return text.strip()


_MODEL: Final = "Model"
_CACHE: Final = "Cache"
_INPUT: Final = "Model input"
_RANKING: Final = "Ranking"

OPTIONS: Final[Mapping[str, Option]] = {
    "model": option(
        "model", _MODEL, type=str, help="mini (embedded, English), a Hub name or a folder."
    ),
    "backend": option("backend", _MODEL),
    "device": option(
        "device",
        _MODEL,
        type=str | None,
        help="Torch device such as cpu or cuda:0, or several, separated by commas; "
        "chosen automatically by default.",
    ),
    "dtype": option("dtype", _MODEL),
    "optimize": option("optimize", _MODEL),
    "revision": option("revision", _MODEL),
    "cache_folder": option("cache_folder", _MODEL, type=str | None),
    "local_files_only": option("local_files_only", _MODEL),
    "trust_remote_code": option("trust_remote_code", _MODEL),
    "idle_unload_s": option("idle_unload_s", _MODEL),
    "cache_mb": option("memory_mb", _CACHE, settings=Cache),
    "cache_entries": option("max_entries", _CACHE, settings=Cache),
    "cache_dir": option("folder", _CACHE, settings=Cache, type=str | None),
    "cache_dir_mb": option("folder_mb", _CACHE, settings=Cache),
    "max_length": option("max_length", _INPUT),
    "long_documents": option(
        "long_documents",
        _INPUT,
        type=Literal["truncate", "windows"],
        help="truncate scores the beginning of a document that is too long; windows scores all "
        "of it.",
    ),
    "window_overlap": option("overlap", _INPUT, settings=Windows),
    "max_windows": option("max_windows", _INPUT, settings=Windows),
    "window_top_k": option(
        "top_k",
        _INPUT,
        settings=Windows,
        help="Number of highest-scoring windows to average into the document score.",
    ),
    "query_prompt": option(
        "prompts",
        _INPUT,
        type=str | None,
        help="Text before the query; the model's own prompt by default.",
    ),
    "document_prompt": option(
        "prompts",
        _INPUT,
        type=str | None,
        help="Text before each document; the model's own prompt by default.",
    ),
    "top_n": option("top_n", _RANKING),
    "score_threshold": option("score_threshold", _RANKING),
    "activation": option(
        "activation",
        _RANKING,
        type=str,
        help="sigmoid for scores from 0 to 1, none for raw scores, or the JSON file of a "
        "calibrator for probabilities.",
    ),
    "fusion": option(
        "fusion",
        _RANKING,
        type=Literal["none", "rrf", "weighted"],
        help="rrf or weighted combines model and retrieval scores; without retrieval scores, "
        "the input order is used.",
    ),
    "fusion_weight": option("weight", _RANKING, settings=Fusion),
    "dedup_threshold": option(
        "threshold",
        _RANKING,
        settings=Dedup,
        type=float | None,
        default=None,
        help="Leave out documents whose cosine similarity to a better one is at least this value.",
    ),
    "dedup_model": option(
        "model",
        _RANKING,
        settings=Dedup,
        type=str,
        help="Embedding model used to detect near-duplicates.",
    ),
    "deadline_ms": option("deadline_ms", _RANKING),
    "on_error": option("on_error", _RANKING),
}
"""Options by their parameter names; the option of ``top_n`` is ``--top-n``."""


def reranker_options(*, exclude: Iterable[str] = ()) -> Callable[[Command], Command]:
    """Add :data:`OPTIONS` to a command, which receives them as ``**options``.

    A command may declare an option of the same name itself, to change its type or help text.

    Args:
        exclude: Names of options to leave out.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        *declared, _ = signature.parameters.values()  # the last one is **options
        names = [name for name in OPTIONS if name not in {*exclude, *signature.parameters}]
        added = [_parameter(name, OPTIONS[name]) for name in names]
        new = signature.replace(parameters=[*declared, *added])
        command.__signature__ = new  # type: ignore[attr-defined]  # typer reads it
        return command

    return decorate


def _parameter(name: str, declared: Option) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"  # an explicit flag has no --no- form
    information = typer.Option(flag, help=declared.help, rich_help_panel=declared.panel)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=declared.default,
        annotation=Annotated[declared.type, information],
    )


def reranker_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of :class:`~rerank_plugins.Reranker` for values of options.

    The options of windows and fusion are validated even if they are not used.

    Raises:
        ConfigurationError: If an option of a value group is out of range.
    """
    settings = dict(options)
    long_documents = settings.get("long_documents", "truncate")
    windows = _pop_group(
        settings, Windows, overlap="window_overlap", max_windows="max_windows", top_k="window_top_k"
    )
    if long_documents == "windows" and windows != Windows():
        long_documents = windows
    fusion = settings.get("fusion", "none")
    weighted = _pop_group(settings, Fusion, weight="fusion_weight")
    if fusion != "none" and weighted != Fusion():
        fusion = weighted.replace(method=fusion)
    cache = _pop_group(
        settings,
        Cache,
        memory_mb="cache_mb",
        max_entries="cache_entries",
        folder="cache_dir",
        folder_mb="cache_dir_mb",
    )
    dedup = None
    if settings.get("dedup_threshold") is not None:
        dedup = _pop_group(settings, Dedup, threshold="dedup_threshold", model="dedup_model")
    prompts = {role: settings.pop(f"{role}_prompt", None) for role in ("query", "document")}
    return {
        **{name: value for name, value in settings.items() if not name.startswith("dedup_")},
        "long_documents": long_documents,
        "fusion": fusion,
        "cache": cache if cache.memory_mb or cache.folder else None,
        "dedup": dedup,
        "prompts": {role: text for role, text in prompts.items() if text is not None} or None,
    }


def _pop_group(settings: dict[str, Any], kind: type[Group], **names: str) -> Group:
    """Remove the options of a value group and return the group.

    Args:
        settings: Values of options.
        kind: The class of the group.
        **names: Fields of the group and the names of their options.

    Raises:
        ConfigurationError: If a value is out of range; the message names the option.
    """
    values = {field: settings.pop(name) for field, name in names.items() if name in settings}
    try:
        return kind(**values)
    except ConfigurationError as error:
        message = str(error)
        for field, name in names.items():
            message = re.sub(rf"\b{field} is\b", f"{name} is", message)
        raise ConfigurationError(message) from error
