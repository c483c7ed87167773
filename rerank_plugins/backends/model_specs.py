"""A cross-encoder in int8, quantized on the user's own texts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from rerank_plugins.backends.remote.apis import APIS, Api, ApiName
from rerank_plugins.config import validate_choice, validate_count
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import TextPair


@dataclass(frozen=True)
class OpenVINOSpec:
    """A local cross-encoder for OpenVINO; give it as ``model=`` wherever a name goes.

    Only ``dtype="int8"`` needs calibration texts, and a name alone brings a sample in
    English. Texts like those that will be ranked widen its ranges where they have to be wider.

    Attributes:
        model: ``"mini"``, a Hugging Face Hub name or a folder.
        calibration: Pairs of a query and a document, used besides the bundled sample; 50 to
            300 are usual. No judgments are needed. None is the bundled sample alone.

    Example:
        >>> from rerank_plugins import OpenVINOSpec
        >>> model = OpenVINOSpec("mini", calibration=[("who wrote Faust", "Goethe did.")])
        >>> str(model)
        'mini'
    """

    model: str | Path
    calibration: Sequence[tuple[str, str]] | None = None

    def __post_init__(self) -> None:
        """Check every field, and make it hashable.

        Raises:
            ConfigurationError: If the calibration pairs are not pairs of texts, or none.
        """
        if self.calibration is None:
            return
        pairs = tuple(self.calibration)
        for number, pair in enumerate(pairs):
            words = isinstance(pair, (tuple, list)) and [isinstance(one, str) for one in pair]
            if words != [True, True]:
                message = f"calibration[{number}] is {pair!r}; it must be (query, document)."
                raise ConfigurationError(message)
        if not pairs:
            message = "calibration has no pairs; give some, or None for the bundled sample."
            raise ConfigurationError(message)
        object.__setattr__(self, "calibration", tuple(TextPair(*pair) for pair in pairs))

    @property
    def backend_name(self) -> str:
        """The name under which :mod:`rerank_plugins.backends` knows it."""
        return "openvino"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        pairs = None if self.calibration is None else [list(pair) for pair in self.calibration]
        return {"model": str(self.model), "calibration": pairs}

    def __str__(self) -> str:
        """Return the model's name."""
        return str(self.model)


DecoderFamily = Literal["auto", "qwen3", "mxbai", "gemma"]


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder reranker with settings of its own; give it as ``model=`` wherever a name goes.

    A name alone is enough for the models of the table of supported ones, and for every model
    that sentence-transformers describes (``modules.json`` and a chat template with the roles
    ``query`` and ``document``).

    Attributes:
        model: Hub name or folder.
        instruction: What makes a document relevant, in the model's prompt; None is the model's
            own. The prompt of ``gemma`` has no place for one.
        family: Whose prompt and answers are used; ``"auto"`` reads the model's files and name. Say
            it for a model that was trained from one of the family and is called otherwise.
        prefix_reuse: Whether what the pairs of a query begin with is computed once.

    Example:
        >>> from rerank_plugins import DecoderSpec, Reranker
        >>> model = DecoderSpec("./tuned", family="qwen3", instruction="Find the clause.")
        >>> Reranker(model, top_n=5).config.top_n
        5
    """

    model: str
    _: KW_ONLY
    instruction: str | None = None
    family: DecoderFamily = "auto"
    prefix_reuse: bool = True

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        object.__setattr__(self, "model", checked_model(self.model))
        validate_choice("family", self.family, get_args(DecoderFamily))
        validate_text("instruction", self.instruction, "the model's own")

    @property
    def backend_name(self) -> str:
        """The name under which :mod:`rerank_plugins.backends` knows it."""
        return "decoder"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return what the model is called in rankings and errors."""
        return self.model


def checked_model(model: object) -> str:
    """Return a model's name as text.

    Raises:
        ConfigurationError: If it is none.
    """
    if isinstance(model, Path):
        return str(model)
    if not isinstance(model, str) or not model.strip():
        message = f"model is {model!r}; give a Hub name or a folder."
        raise ConfigurationError(message)
    return model


def validate_text(name: str, value: object, none: str) -> None:
    """Check a setting that is a text or None.

    Raises:
        ConfigurationError: If it is something else.
    """
    if value is not None and not isinstance(value, str):
        message = f"{name} is {value!r}; it must be a text, or None for {none}."
        raise ConfigurationError(message)


FlagVariant = Literal["auto", "encoder-only", "decoder-only", "layerwise", "lightweight"]

_RATIOS: Final = (1, 2, 4, 8)


@dataclass(frozen=True)
class FlagSpec:
    """One of FlagEmbedding's rerankers; give it as ``model=`` wherever a name goes.

    A name alone is enough for BAAI's own; the settings are FlagEmbedding's, under its names.

    Attributes:
        model: Hub name or folder.
        variant: ``"decoder-only"`` (bge-reranker-v2-gemma), ``"layerwise"``
            (bge-reranker-v2-minicpm-layerwise), ``"lightweight"``
            (bge-reranker-v2.5-gemma2-lightweight) or ``"encoder-only"``: FlagEmbedding's own
            ``FlagReranker`` as a reference, which needs the extra ``flag``; the torch backend runs
            the same models faster. ``"auto"`` reads the model's configuration and name.
        cutoff_layers: Layers to compute, counted from 1; None is all. Later ones are not loaded.
            Only of ``layerwise`` and ``lightweight``.
        compress_ratio: How many tokens of a document become one: 1, 2, 4 or 8. Only of
            ``lightweight``, as :attr:`compress_layers`.
        compress_layers: Layers before which that happens.
        prompt: What is asked after the texts; None is the variant's own.
        query_instruction: Put before the query.
        passage_instruction: Put before the document.

    Example:
        >>> from rerank_plugins import FlagSpec, Reranker
        >>> model = FlagSpec("BAAI/bge-reranker-v2-minicpm-layerwise", cutoff_layers=28)
        >>> Reranker(model, top_n=5).config.top_n
        5
    """

    model: str
    _: KW_ONLY
    variant: FlagVariant = "auto"
    cutoff_layers: int | None = None
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = (8,)
    prompt: str | None = None
    query_instruction: str = "A: "
    passage_instruction: str = "B: "

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range.
        """
        object.__setattr__(self, "model", checked_model(self.model))
        validate_choice("variant", self.variant, get_args(FlagVariant))
        if self.compress_ratio not in _RATIOS:
            message = f"compress_ratio is {self.compress_ratio!r}; it must be 1, 2, 4 or 8."
            raise ConfigurationError(message)
        # Lists, as FlagEmbedding takes them and as JSON brings them back.
        layers = self.compress_layers
        object.__setattr__(self, "compress_layers", tuple(layers) if layers else ())
        if not all(_is_layer(layer) for layer in self.compress_layers):
            message = f"compress_layers is {layers!r}; it must hold numbers of layers from 1."
            raise ConfigurationError(message)
        if self.cutoff_layers is not None and not _is_layer(self.cutoff_layers):
            message = (
                f"cutoff_layers is {self.cutoff_layers!r}; it must be one number of layers from 1, "
                "or None for all: a ranking has one score a document."
            )
            raise ConfigurationError(message)
        validate_text("prompt", self.prompt, "the variant's own")
        for name in ("query_instruction", "passage_instruction"):
            validate_text(name, getattr(self, name) or "", "none")

    @property
    def backend_name(self) -> str:
        """The name under which :mod:`rerank_plugins.backends` knows it."""
        return "flag"

    def refuse(self, variant: str, *names: str) -> None:
        """Refuse settings that a variant does not have.

        Raises:
            ConfigurationError: If one of them is not its default.
        """
        plain = FlagSpec(self.model)
        for name in names:
            value = getattr(self, name)
            if value != getattr(plain, name):
                message = f"{name} is {value!r}, and {self.model!r} is {variant}, which has none."
                raise ConfigurationError(message)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return asdict(self) | {"compress_layers": list(self.compress_layers)}

    def __str__(self) -> str:
        """Return what the model is called in rankings and errors."""
        return self.model


def _is_layer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True)
class RemoteSpec:
    """A cross-encoder behind an HTTP API; give it as ``model=`` wherever a name goes.

    Equal ones share one engine in a process, hence connections and limits. Nothing is sent
    before the first ranking. Pickles and dictionaries hold everything but the token.

    Attributes:
        url: Base address of the server, or of several that serve the same model; a whole
            address that ends in ``/rerank`` is used as it is.
        api: What the server speaks: ``"tei"``, ``"vllm"``, ``"infinity"``, ``"cohere"``,
            ``"jina"`` or ``"rerank-plugins"``.
        model: The server's name for the model, where it has several.
        token: Sent as ``Authorization: Bearer``; it is in no representation, log or error.
        token_env: Environment variable to read the token from where :attr:`token` is not given,
            as in another process.
        max_documents: Documents of one request; None is the API's own limit. Longer lists are
            sent as several requests.
        max_characters: Characters of a text, which is cut there and reported as truncated. None
            leaves cutting to the server, which does not report it.
        max_concurrent: Requests in flight at once, over all servers.
        timeout_s: Seconds without a sign of the server before an attempt is given up.
        deadline_s: Seconds for a request in all, waiting and retries included.
        retries: Attempts after the first, for 429, 502, 503, 504 and time-outs.

    Example:
        >>> from rerank_plugins import RemoteSpec, Reranker
        >>> model = RemoteSpec("http://10.0.0.5:8080", api="tei", token_env="TEI_TOKEN")
        >>> Reranker(model, top_n=5).config.top_n
        5
    """

    url: str | Sequence[str]
    _: KW_ONLY
    api: ApiName
    model: str | None = None
    token: SecretStr | str | None = None
    token_env: str | None = None
    max_documents: int | None = None
    max_characters: int | None = None
    max_concurrent: int = 8
    timeout_s: float = 10.0
    deadline_s: float = 30.0
    retries: int = 3

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range; it shows no address and no token.
        """
        if self.api not in APIS:
            message = f"api is {self.api!r}; allowed are {', '.join(APIS)}."
            raise ConfigurationError(message)
        _validate_name(self.model, self.api)
        validate_count("max_documents", self.max_documents, "for the API's limit")
        validate_count("max_characters", self.max_characters, "for the server's limit")
        _validate_integer("max_concurrent", self.max_concurrent, 1)
        _validate_integer("retries", self.retries, 0)
        _validate_number("timeout_s", self.timeout_s)
        _validate_number("deadline_s", self.deadline_s)
        # Normal forms, so that equal settings compare equal and no token lies open.
        object.__setattr__(self, "url", _checked_urls(self.url))
        if isinstance(self.token, str):
            object.__setattr__(self, "token", SecretStr(self.token))

    @property
    def urls(self) -> tuple[str, ...]:
        """The base addresses, without a slash at the end."""
        return cast("tuple[str, ...]", self.url)

    @property
    def protocol(self) -> Api:
        """How the server is asked."""
        return APIS[self.api]

    @property
    def backend_name(self) -> str:
        """The name under which :mod:`rerank_plugins.backends` knows it."""
        return self.api

    def secret(self) -> str | None:
        """Return the token, read from the environment if it is not given here.

        Raises:
            ConfigurationError: If there should be one, and there is none, or none that a
                header can carry.
        """
        token = None if self.token is None else cast("SecretStr", self.token).get_secret_value()
        if not token and self.token_env is not None:
            token = os.environ.get(self.token_env, "").strip()
            if not token:
                message = f"token_env names {self.token_env!r}, and that is not set. Set it."
                raise ConfigurationError(message)
        if token == "":
            message = (
                f"the token of {self} is empty: pickles and dictionaries do not hold it. Name an "
                "environment variable in token_env, from which each process reads it."
            )
            raise ConfigurationError(message)
        if token is not None and not (token.isascii() and token.isprintable()):
            message = f"the token of {self} has characters that no HTTP header can carry."
            raise ConfigurationError(message)
        return token

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON; an empty string stands for the token."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return values | {"url": list(self.urls), "token": None if self.token is None else ""}

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without the token, for pickling and copying."""
        return self.to_dict()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the fields back."""
        RemoteSpec.__init__(self, **state)

    def __str__(self) -> str:
        """Return what the model is called in rankings and errors."""
        return self.model or self.urls[0]


def _validate_name(model: object, api: str) -> None:
    named = APIS[api].named
    if named == "must" and not model:
        message = f"api {api!r} needs the name of a model: RemoteSpec(..., model=...)."
        raise ConfigurationError(message)
    if named == "no" and model is not None:
        message = f"model is {model!r}; a server with api {api!r} has one model, so leave it out."
        raise ConfigurationError(message)
    if model is not None and not isinstance(model, str):
        message = f"model is {model!r}; it must be the server's name for a model, or None."
        raise ConfigurationError(message)


def _validate_integer(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        message = f"{name} is {value!r}; it must be an integer of at least {least}."
        raise ConfigurationError(message)


def _validate_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6:  # noqa: PLR2004
        message = f"{name} is {value!r}; it must be a number of seconds above 0."
        raise ConfigurationError(message)


def _checked_urls(url: object) -> tuple[str, ...]:
    """Return addresses in their normal form; what is refused is not shown, it may be secret."""
    urls = [url] if isinstance(url, str) else list(url) if isinstance(url, Sequence) else []
    checked = []
    for one in urls:
        try:
            parts = urlsplit(one if isinstance(one, str) else "")
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid or parts.username or parts.password or parts.query or parts.fragment:
            message = (
                "url must be an address such as 'http://host:8080', or a list of them, without "
                "user, password, query or fragment; a secret belongs into token or token_env."
            )
            raise ConfigurationError(message)
        checked.append(one.rstrip("/"))
    if not checked:
        message = "url is empty; give the address of a server, or a list of them."
        raise ConfigurationError(message)
    return tuple(dict.fromkeys(checked))
