"""Which server, and how it is asked: the settings a remote model is described by."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import SecretStr

from rerank_plugins.backends.remote.apis import APIS, Api, ApiName
from rerank_plugins.core.checks import check_count
from rerank_plugins.errors import ConfigurationError


@dataclass(frozen=True)
class RemoteModel:
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
        >>> from rerank_plugins import RemoteModel, Reranker
        >>> model = RemoteModel("http://10.0.0.5:8080", api="tei", token_env="TEI_TOKEN")
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
        _check_name(self.model, self.api)
        check_count("max_documents", self.max_documents, "for the API's limit")
        check_count("max_characters", self.max_characters, "for the server's limit")
        _check_integer("max_concurrent", self.max_concurrent, 1)
        _check_integer("retries", self.retries, 0)
        _check_number("timeout_s", self.timeout_s)
        _check_number("deadline_s", self.deadline_s)
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
        RemoteModel.__init__(self, **state)

    def __str__(self) -> str:
        """Return what the model is called in rankings and errors."""
        return self.model or self.urls[0]


def _check_name(model: object, api: str) -> None:
    named = APIS[api].named
    if named == "must" and not model:
        message = f"api {api!r} needs the name of a model: RemoteModel(..., model=...)."
        raise ConfigurationError(message)
    if named == "no" and model is not None:
        message = f"model is {model!r}; a server with api {api!r} has one model, so leave it out."
        raise ConfigurationError(message)
    if model is not None and not isinstance(model, str):
        message = f"model is {model!r}; it must be the server's name for a model, or None."
        raise ConfigurationError(message)


def _check_integer(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        message = f"{name} is {value!r}; it must be an integer of at least {least}."
        raise ConfigurationError(message)


def _check_number(name: str, value: float) -> None:
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
