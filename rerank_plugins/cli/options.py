"""Options that set a reranker, derived from the fields of :mod:`rerank_plugins.config`.

An option takes its default, its type and its help text from a field. The fields of a value
group, such as :class:`~rerank_plugins.Windows`, are separate options. :func:`reranker_options`
adds options to a command, and :func:`reranker_settings` turns their values into arguments of
:class:`~rerank_plugins.Reranker`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rerank_plugins.config import Cache, Dedup, Fusion, RerankerSettings, ValueGroup, Windows
from rerank_plugins.errors import ConfigurationError

out: Final = Console(highlight=False)
err: Final = Console(stderr=True, highlight=False)


def print_message(message: str) -> None:
    """Print a warning or an error of the command to standard error, on one line."""
    err.print(f"rerank-plugins: {message}", markup=False, soft_wrap=True)


def printable(text: str) -> str:
    r"""Return a text on one line, without the characters that control a terminal.

    >>> printable("a\n\x1b[31mb\ud800")
    'a [31mb'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def progress() -> Progress:
    """Return progress bars, which are shown only if standard error is a terminal."""
    description = TextColumn("{task.description}")
    columns = (description, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


Command = TypeVar("Command", bound=Callable[..., None])
Group = TypeVar("Group", bound=ValueGroup)

_GROUPS: Final[Mapping[type[ValueGroup], Mapping[str, str]]] = {
    Windows: {"window_overlap": "overlap", "max_windows": "max_windows", "window_top_k": "top_k"},
    Cache: {
        "cache_mb": "memory_mb",
        "cache_entries": "max_entries",
        "cache_dir": "folder",
        "cache_dir_mb": "folder_mb",
    },
    Fusion: {"fusion_weight": "weight"},
    Dedup: {"dedup_threshold": "threshold", "dedup_model": "model"},
}
"""Options that set the fields of value groups, with the names of these fields."""

_FIELDS: Final[Mapping[str, tuple[type[BaseModel], str]]] = {
    "query_prompt": (RerankerSettings, "prompts"),
    "document_prompt": (RerankerSettings, "prompts"),
    **{name: (group, fields[name]) for group, fields in _GROUPS.items() for name in fields},
}


def option(
    name: str,
    panel: str,
    settings: type[BaseModel] = RerankerSettings,
    **changes: Any,  # noqa: ANN401
) -> inspect.Parameter:
    """Return the option that sets a field, as a parameter of a command.

    It has the type, default and help text of the field, except for ``changes``. ``panel`` is its
    heading in ``--help``.
    """
    declared_by, field = _FIELDS.get(name, (settings, name))
    info = declared_by.model_fields[field]
    information = typer.Option(
        f"--{name.replace('_', '-')}",  # an explicit flag has no --no- form
        help=changes.get("help") or _help_text(info.description or ""),
        rich_help_panel=panel,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=changes.get("default", info.default),
        annotation=Annotated[changes.get("type", info.annotation), information],
    )


def _help_text(description: str) -> str:
    """Return a description without what concerns Python: quotes, and the meaning of None.

    >>> _help_text('Folder of models; None is the default one. "mini" needs no folder.')
    'Folder of models. mini needs no folder.'
    """
    return re.sub(r"[.;] None [^.;]*[.;]", ".", description.replace('"', ""))


_PANELS: Final = {
    "Model": (
        *("model", "backend", "device", "dtype", "optimize", "revision", "cache_folder"),
        *("local_files_only", "trust_remote_code", "idle_unload_s"),
    ),
    "Cache": tuple(_GROUPS[Cache]),
    "Model input": (
        *("max_length", "long_documents", *_GROUPS[Windows], "query_prompt", "document_prompt"),
    ),
    "Ranking": (
        *("top_n", "score_threshold", "activation", "fusion", *_GROUPS[Fusion]),
        *(*_GROUPS[Dedup], "deadline_ms", "on_error"),
    ),
}
_CHANGES: Final[Mapping[str, Mapping[str, Any]]] = {
    "model": {"type": str, "help": "mini (embedded, English), a Hub name or a folder."},
    "device": {
        "type": str | None,
        "help": "Torch device such as cpu or cuda:0, or several, separated by commas; "
        "chosen automatically by default.",
    },
    "cache_folder": {"type": str | None},
    "cache_dir": {"type": str | None},
    "long_documents": {
        "type": Literal["truncate", "windows"],
        "help": "truncate scores the beginning of a document that is too long; windows scores "
        "all of it.",
    },
    "window_top_k": {
        "help": "Number of highest-scoring windows to average into the document score."
    },
    "query_prompt": {
        "type": str | None,
        "help": "Text before the query; the model's own prompt by default.",
    },
    "document_prompt": {
        "type": str | None,
        "help": "Text before each document; the model's own prompt by default.",
    },
    "activation": {
        "type": str,
        "help": "sigmoid for scores from 0 to 1, none for raw scores, or the JSON file of a "
        "calibrator for probabilities.",
    },
    "fusion": {
        "type": Literal["none", "rrf", "weighted"],
        "help": "rrf or weighted combines model and retrieval scores; without retrieval scores, "
        "the input order is used.",
    },
    "dedup_threshold": {
        "type": float | None,
        "default": None,
        "help": "Leave out documents whose cosine similarity to a better one is at least this "
        "value.",
    },
    "dedup_model": {"type": str, "help": "Embedding model used to detect near-duplicates."},
}
"""What an option has other than its field has: a simpler type, or a help text without Python."""

OPTIONS: Final[Mapping[str, inspect.Parameter]] = {
    name: option(name, panel, **_CHANGES.get(name, {}))
    for panel, names in _PANELS.items()
    for name in names
}
"""Options by their parameter names; the option of ``top_n`` is ``--top-n``."""


def reranker_options(
    *others: inspect.Parameter, exclude: Iterable[str] = ()
) -> Callable[[Command], Command]:
    """Add :data:`OPTIONS` and others to a command, which receives them as ``**options``."""

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        *declared, _ = signature.parameters.values()  # the last one is **options
        added = {**OPTIONS, **{parameter.name: parameter for parameter in others}}
        parameters = [added[name] for name in added if name not in exclude]
        new = signature.replace(parameters=[*declared, *parameters])
        command.__signature__ = new  # type: ignore[attr-defined]  # typer reads it
        return command

    return decorate


def reranker_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of :class:`~rerank_plugins.Reranker` for values of options.

    The options of windows and fusion are validated even if they are not used.
    """
    missing = {"long_documents": "truncate", "fusion": "none", "dedup_threshold": None}
    settings = {**options, **{name: missing[name] for name in missing if name not in options}}
    windows, fusion = _pop_group(settings, Windows), _pop_group(settings, Fusion)
    if settings["long_documents"] == "windows" and windows != Windows():
        settings["long_documents"] = windows
    if settings["fusion"] != "none" and fusion != Fusion():
        settings["fusion"] = fusion.replace(method=settings["fusion"])
    cache = _pop_group(settings, Cache)
    settings["cache"] = cache if cache.memory_mb or cache.folder else None
    settings["dedup"] = None
    if settings["dedup_threshold"] is not None:
        settings["dedup"] = _pop_group(settings, Dedup)
    prompts = {role: settings.pop(f"{role}_prompt", None) for role in ("query", "document")}
    settings["prompts"] = {role: text for role, text in prompts.items() if text is not None} or None
    return {name: settings[name] for name in settings if name not in _GROUPS[Dedup]}


def _pop_group(settings: dict[str, Any], kind: type[Group]) -> Group:
    """Remove the options of a value group and return the group; an error names the option."""
    names = _GROUPS[kind]
    values = {field: settings.pop(name) for name, field in names.items() if name in settings}
    try:
        return kind(**values)
    except ConfigurationError as error:
        message = str(error)
        for name, field in names.items():
            message = re.sub(rf"\b{field} is\b", f"{name} is", message)
        raise ConfigurationError(message) from error
