"""Options that set a reranker, derived from the fields of its settings.

An option takes its default, its type and its help text from a field.
:func:`reranker_options` adds options to a command, and :func:`reranker_settings` turns their
values into arguments of :class:`~rerank_plugins.Reranker`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args

import typer
from pydantic import BaseModel

from rerank_plugins._fields import RerankerFields
from rerank_plugins.config import Activation

Command = TypeVar("Command", bound=Callable[..., None])


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
    settings: type[BaseModel] = RerankerFields,
    type: Any = None,  # noqa: ANN401  (any type that typer supports)
    help: str | None = None,
) -> Option:
    """Return the option that sets a field.

    Args:
        field: Name of the field.
        panel: Heading of the option in ``--help``.
        settings: The model that declares the field.
        type: Type on the command line; None is the type of the field.
        help: Help text; None is the description of the field.
    """
    info = settings.model_fields[field]
    return Option(
        info.annotation if type is None else type,
        info.default,
        (info.description or "") if help is None else help,
        panel,
    )


_MODEL: Final = "Model"
_CACHE: Final = "Cache"
_INPUT: Final = "Model input"
_RANKING: Final = "Ranking"

OPTIONS: Final[Mapping[str, Option]] = {
    "model": option(
        "model", _MODEL, type=str, help='"mini" (embedded, English), a Hub name or a folder.'
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
    "cache_folder": option("cache_folder", _MODEL),
    "local_files_only": option("local_files_only", _MODEL),
    "trust_remote_code": option("trust_remote_code", _MODEL),
    "idle_unload_s": option("idle_unload_s", _MODEL),
    "cache_mb": option("cache_mb", _CACHE),
    "cache_entries": option("cache_entries", _CACHE),
    "cache_dir": option("cache_dir", _CACHE),
    "cache_dir_mb": option("cache_dir_mb", _CACHE),
    "max_length": option("max_length", _INPUT),
    "long_documents": option("long_documents", _INPUT),
    "window_overlap": option("window_overlap", _INPUT),
    "max_windows": option("max_windows", _INPUT),
    "window_top_k": option(
        "best_windows",
        _INPUT,
        help="Number of highest-scoring windows to average into the document score.",
    ),
    "query_prompt": option("query_prompt", _INPUT),
    "document_prompt": option("document_prompt", _INPUT),
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
        help="rrf or weighted combines model and retrieval scores; without retrieval scores, "
        "the input order is used.",
    ),
    "fusion_weight": option(
        "fusion_weight", _RANKING, help="Weight of the model in the fusion, from 0 to 1."
    ),
    "dedup_threshold": option(
        "drop_similar",
        _RANKING,
        help="Remove documents whose cosine similarity to a better one is at least this value.",
    ),
    "dedup_model": option(
        "similarity_model",
        _RANKING,
        type=str,
        help="Embedding model used to detect near-duplicates.",
    ),
    "deadline_ms": option("deadline_ms", _RANKING),
    "on_error": option("on_error", _RANKING),
}
"""Options by their parameter names; the option of ``top_n`` is ``--top-n``."""


def reranker_options(
    include: Iterable[str] = OPTIONS, *, exclude: Iterable[str] = ()
) -> Callable[[Command], Command]:
    """Add options to a command, which receives them as ``**options``.

    A command may declare an option of the same name itself, to change its type or help text.

    Args:
        include: Names in :data:`OPTIONS`; others are ignored.
        exclude: Names to leave out.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        *declared, _ = signature.parameters.values()  # the last one is **options
        names = {name for name in include if name in OPTIONS}
        names -= {*exclude, *signature.parameters}
        added = [_parameter(name, OPTIONS[name]) for name in OPTIONS if name in names]
        new = signature.replace(parameters=[*declared, *added])
        command.__signature__ = new  # type: ignore[attr-defined]  # typer reads it
        return command

    return decorate


def reranker_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of :class:`~rerank_plugins.Reranker` for values of options."""
    settings = {_PARAMETERS.get(name, name): value for name, value in options.items()}
    if (activation := settings.get("activation")) not in (None, *get_args(Activation)):
        del settings["activation"]
        settings["calibrator"] = activation
    return settings


_PARAMETERS: Final = {
    "window_top_k": "best_windows",
    "dedup_threshold": "drop_similar",
    "dedup_model": "similarity_model",
}
"""Parameters of the reranker that have another name than their option."""


def _parameter(name: str, declared: Option) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"  # an explicit flag has no --no- form
    information = typer.Option(flag, help=declared.help, rich_help_panel=declared.panel)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=declared.default,
        annotation=Annotated[declared.type, information],
    )
