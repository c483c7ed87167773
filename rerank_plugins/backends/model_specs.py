"""Specifications of models that need more than a name.

A specification is passed as ``model=`` wherever a name is accepted. Specifications are frozen and
hashable: equal ones share one engine. Importing this module loads no model library, so that a
:class:`RemoteSpec` works without torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, cast, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from rerank_plugins.backends.remote.apis import APIS, Api, ApiName
from rerank_plugins.config import validate_choice, validate_count, validate_number, validate_prompt
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import TextPair

DecoderFamily = Literal["auto", "qwen3", "mxbai", "gemma"]
FlagVariant = Literal["auto", "encoder-only", "decoder-only", "layerwise", "lightweight"]

_LEAST_SECONDS: Final = 1e-3
_MAX_SECONDS: Final = 1e6


@dataclass(frozen=True)
class _LocalSpec:
    """A model in this process; ``backend_name`` is the key in the table of backends."""

    model: str | Path

    def __post_init__(self) -> None:
        """Validate the model, and store it as a string."""
        if not isinstance(self.model, (str, Path)) or not str(self.model).strip():
            message = f"model is {self.model!r}; give a Hub name or a folder."
            raise ConfigurationError(message)
        object.__setattr__(self, "model", str(self.model))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the model's name in rankings and errors."""
        return str(self.model)


@dataclass(frozen=True)
class DecoderSpec(_LocalSpec):
    """A decoder reranker with its own prompt settings.

    A name is enough for the models in the table of supported models, and for every model that
    sentence-transformers describes (``modules.json`` and a chat template with the roles
    ``query`` and ``document``).

    Attributes:
        model: Hub name or folder.
        instruction: Relevance criterion for the model's prompt; None uses the model's own. The
            prompt of ``gemma`` takes no instruction.
        family: Family whose prompt and answer tokens are used; ``"auto"`` reads the model's files
            and name. Required for a fine-tuned model of a family under another name.
        prefix_reuse: Whether the common prefix of a query's pairs is computed only once.

    Example:
        >>> from rerank_plugins import DecoderSpec, Reranker
        >>> model = DecoderSpec("./tuned", family="qwen3", instruction="Find the clause.")
        >>> Reranker(model, top_n=5).top_n
        5
    """

    _: KW_ONLY
    instruction: str | None = None
    family: DecoderFamily = "auto"
    prefix_reuse: bool = True
    backend_name: ClassVar[str] = "decoder"

    def __post_init__(self) -> None:
        """Validate all fields."""
        super().__post_init__()
        validate_choice("family", self.family, get_args(DecoderFamily))
        validate_prompt("instruction", self.instruction)


@dataclass(frozen=True)
class FlagSpec(_LocalSpec):
    """A reranker of FlagEmbedding.

    A name is enough for the models of BAAI. The settings have the names that FlagEmbedding uses.

    Attributes:
        model: Hub name or folder.
        variant: ``"decoder-only"`` (bge-reranker-v2-gemma), ``"layerwise"``
            (bge-reranker-v2-minicpm-layerwise), ``"lightweight"``
            (bge-reranker-v2.5-gemma2-lightweight) or ``"encoder-only"``, which runs FlagEmbedding's
            own ``FlagReranker`` as a reference and needs the extra ``flag``; the torch backend is
            faster for the same models. ``"auto"`` reads the model's configuration and name.
        cutoff_layers: Number of layers to compute; None means all. Later layers are not loaded.
            Only for ``layerwise`` and ``lightweight``.
        compress_ratio: Number of document tokens merged into one: 1, 2, 4 or 8. Only for
            ``lightweight``.
        compress_layers: Layers, counted from 1, before which tokens are merged. Only for
            ``lightweight``.
        prompt: Question after the two texts; None uses the variant's own.
        query_instruction: Prefix of the query.
        passage_instruction: Prefix of the document.

    Example:
        >>> from rerank_plugins import FlagSpec, Reranker
        >>> model = FlagSpec("BAAI/bge-reranker-v2-minicpm-layerwise", cutoff_layers=28)
        >>> Reranker(model, top_n=5).top_n
        5
    """

    _: KW_ONLY
    variant: FlagVariant = "auto"
    cutoff_layers: int | None = None
    compress_ratio: int = 1
    compress_layers: tuple[int, ...] = (8,)
    prompt: str | None = None
    query_instruction: str = "A: "
    passage_instruction: str = "B: "
    backend_name: ClassVar[str] = "flag"

    def __post_init__(self) -> None:
        """Validate all fields, and store the layers as a tuple."""
        super().__post_init__()
        validate_choice("variant", self.variant, get_args(FlagVariant))
        if self.compress_ratio not in (1, 2, 4, 8):
            message = f"compress_ratio is {self.compress_ratio!r}; it must be 1, 2, 4 or 8."
            raise ConfigurationError(message)
        # FlagEmbedding and JSON use lists, which are not hashable.
        layers = self.compress_layers
        object.__setattr__(self, "compress_layers", tuple(layers) if layers else ())
        if not all(_is_layer(layer) for layer in self.compress_layers):
            message = f"compress_layers is {layers!r}; it must hold layer numbers of at least 1."
            raise ConfigurationError(message)
        if self.cutoff_layers is not None and not _is_layer(self.cutoff_layers):
            message = (
                f"cutoff_layers is {self.cutoff_layers!r}; it must be one number of layers of at "
                "least 1, or None for all: a ranking has one score per document."
            )
            raise ConfigurationError(message)
        for name in ("prompt", "query_instruction", "passage_instruction"):
            validate_prompt(name, getattr(self, name))

    def refuse(self, variant: str, *names: str) -> None:
        """Refuse settings that a variant does not support, unless they have their defaults."""
        reason = f"{self.model!r} is {variant}, which does not support it"
        refuse_settings(self, FlagSpec(self.model), names, reason)


@dataclass(frozen=True)
class OpenVINOSpec(_LocalSpec):
    """A local cross-encoder for OpenVINO with calibration texts for int8.

    Only ``dtype="int8"`` uses calibration texts, and without any a bundled English sample is
    used. Texts similar to those that will be ranked extend the quantization ranges where needed.

    Attributes:
        model: ``"mini"``, a Hugging Face Hub name or a folder.
        calibration: Pairs of a query and a document, used in addition to the bundled sample;
            50 to 300 are typical. No relevance labels are needed. None uses the bundled sample
            only.

    Example:
        >>> from rerank_plugins import OpenVINOSpec
        >>> model = OpenVINOSpec("mini", calibration=[("who wrote faust", "Goethe did.")])
        >>> str(model)
        'mini'
    """

    calibration: Sequence[tuple[str, str]] | None = None
    backend_name: ClassVar[str] = "openvino"

    def __post_init__(self) -> None:
        """Validate all fields, and store the pairs as tuples, which are hashable."""
        super().__post_init__()
        if self.calibration is None:
            return
        pairs = tuple(self.calibration)
        for number, pair in enumerate(pairs):
            is_text = isinstance(pair, (tuple, list)) and [isinstance(text, str) for text in pair]
            if is_text != [True, True]:
                message = f"calibration[{number}] is {pair!r}; it must be (query, document)."
                raise ConfigurationError(message)
        if not pairs:
            message = "calibration has no pairs; give some, or None for the bundled sample."
            raise ConfigurationError(message)
        object.__setattr__(self, "calibration", tuple(TextPair(*pair) for pair in pairs))


@dataclass(frozen=True)
class RemoteSpec:
    """A cross-encoder behind an HTTP API.

    Equal specifications share one engine per process, and with it connections and limits. No
    request is sent before the first ranking. Pickles and dictionaries hold everything except the
    token.

    Attributes:
        url: Base URL of the server, or of several servers with the same model; a URL that ends
            with ``/rerank`` is used unchanged.
        api: API of the server: ``"tei"``, ``"vllm"``, ``"infinity"``, ``"cohere"``, ``"jina"`` or
            ``"rerank-plugins"``.
        model: The server's name of the model, for servers with several models.
        token: Sent as ``Authorization: Bearer``; never shown in a representation, log or error.
        token_env: Environment variable that holds the token if :attr:`token` is None, for example
            in another process.
        max_documents: Maximum number of documents per HTTP request; None uses the API's limit.
            Longer lists are split into several requests.
        max_characters: Maximum number of characters per text; longer texts are truncated and
            reported as such. None leaves truncation to the server, which does not report it.
        max_concurrent: Maximum number of concurrent HTTP requests to all servers together.
        timeout_s: Seconds without data from the server after which an attempt fails.
        deadline_s: Seconds for a request in total, including queueing and retries.
        retries: Attempts after the first, for status 429, 502, 503 and 504 and for timeouts.

    Example:
        >>> from rerank_plugins import RemoteSpec, Reranker
        >>> model = RemoteSpec("http://10.0.0.5:8080", api="tei", token_env="TEI_TOKEN")
        >>> Reranker(model, top_n=5).top_n
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
        """Validate all fields; the messages show no URL and no token."""
        validate_choice("api", self.api, tuple(APIS))
        self._validate_model()
        validate_count("max_documents", self.max_documents, "for the API's limit")
        validate_count("max_characters", self.max_characters, "for the server's limit")
        validate_count("max_concurrent", self.max_concurrent)
        validate_count("retries", self.retries, least=0)
        validate_number("timeout_s", self.timeout_s, low=_LEAST_SECONDS, high=_MAX_SECONDS)
        validate_number("deadline_s", self.deadline_s, low=_LEAST_SECONDS, high=_MAX_SECONDS)
        # Normalized, so that equal settings compare equal and the token is not in plain text.
        object.__setattr__(self, "url", _normalize_urls(self.url))
        if isinstance(self.token, str):
            object.__setattr__(self, "token", SecretStr(self.token))

    def _validate_model(self) -> None:
        model: object = self.model
        model_field = self.protocol.model_field
        if model_field == "required" and not model:
            message = f"api {self.api!r} needs the name of a model: RemoteSpec(..., model=...)."
        elif model_field == "unsupported" and model is not None:
            message = f"model is {model!r}, but a {self.api!r} server has one model. Omit model."
        elif model is not None and not isinstance(model, str):
            message = f"model is {model!r}; it must be a string, or None for the server's default."
        else:
            return
        raise ConfigurationError(message)

    @property
    def urls(self) -> tuple[str, ...]:
        """The base URLs, without a trailing slash."""
        return cast("tuple[str, ...]", self.url)

    @property
    def protocol(self) -> Api:
        """Request format and limits of the API."""
        return APIS[self.api]

    @property
    def backend_name(self) -> str:
        """Name of the backend in the table of :mod:`rerank_plugins.backends`."""
        return self.api

    def secret(self) -> str | None:
        """Return the token, read from the environment if :attr:`token` is not set."""
        token = None if self.token is None else cast("SecretStr", self.token).get_secret_value()
        if not token and self.token_env is not None:
            token = os.environ.get(self.token_env, "").strip()
            if not token:
                message = (
                    f"token_env is {self.token_env!r}, but that environment variable is not set. "
                    "Set it to the token."
                )
                raise ConfigurationError(message)
        if token == "":
            message = (
                f"the token of {self} is empty: pickles and dictionaries do not hold it. Set "
                "token_env to an environment variable that holds the token in each process."
            )
            raise ConfigurationError(message)
        if token is not None and not (token.isascii() and token.isprintable()):
            message = (
                f"the token of {self} has characters that no HTTP header can carry. Use printable "
                "ASCII characters only."
            )
            raise ConfigurationError(message)
        return token

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values, with an empty string as the token."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"url": list(self.urls), "token": None if self.token is None else ""}

    __getstate__ = to_dict  # pickles and copies have no token

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore the fields."""
        RemoteSpec.__init__(self, **state)

    def __str__(self) -> str:
        """Return the model's name in rankings and errors."""
        return self.model or self.urls[0]


def refuse_settings(settings: object, defaults: object, names: Iterable[str], reason: str) -> None:
    """Refuse settings that do not apply, unless they have their defaults."""
    for name in names:
        value = getattr(settings, name)
        if value != getattr(defaults, name):
            message = f"{name} is {value!r}, but {reason}. Omit {name}."
            raise ConfigurationError(message)


def _is_layer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _normalize_urls(value: object) -> tuple[str, ...]:
    """Return unique URLs without trailing slashes; errors do not show them, they may be secret."""
    urls = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    normalized = []
    for url in urls:
        try:
            parts = urlsplit(url if isinstance(url, str) else "")
            is_valid = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            )
        except ValueError:
            is_valid = False
        if not is_valid or parts.username or parts.password or parts.query or parts.fragment:
            message = (
                "url must be an address such as 'http://host:8080', or a list of them, without "
                "user, password, query or fragment. Pass a secret as token or token_env."
            )
            raise ConfigurationError(message)
        normalized.append(url.rstrip("/"))
    if not normalized:
        message = "url is empty; give the address of a server, or a list of them."
        raise ConfigurationError(message)
    return tuple(dict.fromkeys(normalized))
