"""No secret in any representation, log, error, span or file of an object that holds it."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import logging
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from langchain_core.load import dumps
from pydantic import BaseModel
from typer.testing import CliRunner

from rerank_plugins import Cache, Cascade, RemoteSpec, Reranker
from rerank_plugins.cli.app import app as command
from rerank_plugins.config import ModelConfig
from rerank_plugins.errors import RemoteStatusError, RerankError
from rerank_plugins.langchain import CrossEncoderCompressor, CrossEncoderModel
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from rerank_plugins.ray.settings import RayServeSettings
from rerank_plugins.serving import ServerSettings, create_app
from rerank_plugins.testing import FakeCrossEncoder
from tests.helpers.fake_server import TOKEN as CLIENT_TOKEN
from tests.helpers.fake_server import FakeServer, Response, drop_connection, respond
from tests.serving.live import live
from tests.tracing.conftest import Spans, exporter, spans

__all__ = ["exporter", "spans"]  # fixtures

SERVER_TOKEN: Final = "srv-0penSesame!/with+chars=~"  # noqa: S105  (no real token)
HUB_TOKEN: Final = "hf_NoSuchTokenAnywhere123456789"  # noqa: S105  (no real token)
SECRETS: Final = (CLIENT_TOKEN, SERVER_TOKEN, HUB_TOKEN)
DOCUMENTS: Final = ["rain falls", "goethe wrote faust"]


def forms(secret: str) -> Iterator[str]:
    """Yield the encodings of a secret: plain, in a URL, in JSON, as bytes, in base64."""
    yield secret
    yield quote(secret)
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]
    yield repr(secret.encode())[2:-1]
    yield base64.b64encode(secret.encode()).decode()


def secrets_in(text: str) -> list[str]:
    """Return the secrets that a text contains."""
    return [secret for secret in SECRETS if any(form in text for form in forms(secret))]


def representations(value: Any) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each representation of a value."""
    yield "repr", repr(value)
    yield "str", str(value)
    yield "format", f"{value}"
    yield "vars", repr(getattr(value, "__dict__", None))
    conversions: dict[str, Callable[[], str]] = {
        "pickle": lambda: pickle.dumps(value).decode("latin-1"),
        "copy": lambda: repr(vars(copy.copy(value))),
        "state": lambda: repr(value.__getstate__()),
        "dict": lambda: json.dumps(value.to_dict(), default=str),
        "json": lambda: str(value.to_json()),
        "fields": lambda: repr(dataclasses.asdict(value)),
        "langchain": lambda: str(dumps(value)),
    }
    for name, convert in conversions.items():
        with suppress(TypeError, AttributeError, pickle.PicklingError, NotImplementedError):
            yield name, convert()
    if isinstance(value, BaseModel):
        yield "model_dump", repr(value.model_dump())
        yield "model_dump json", value.model_dump_json()
        yield "schema", json.dumps(type(value).model_json_schema())


def check(**values: Any) -> None:
    """Fail if a secret is in any representation of any of the values."""
    for name, value in values.items():
        for kind, text in representations(value):
            assert not secrets_in(text), f"a secret is in the {kind} of {name}: {text}"


def error_text(error: BaseException) -> str:
    """Return the text of an error, its causes and its contexts, as in a traceback."""
    texts = traceback.TracebackException.from_exception(error).format()
    return f"{error!r} {error.args!r} {vars(error)!r} " + "".join(texts)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake_server = FakeServer("tei")
    yield fake_server
    fake_server.stop()


def remote(server: FakeServer, **settings: Any) -> RemoteSpec:
    defaults: dict[str, Any] = {
        "timeout_s": 5.0,
        "deadline_s": 5.0,
        "retries": 0,
        "token": CLIENT_TOKEN,
    }
    return RemoteSpec(server.url, api="tei", **defaults | settings)


@dataclasses.dataclass
class Careless:
    token: str


@pytest.mark.parametrize("secret", SECRETS)
def test_a_visible_secret_is_found(secret: str) -> None:
    with pytest.raises(AssertionError, match="a secret is in the repr of careless"):
        check(careless=Careless(secret))
    assert secrets_in(error_text(ValueError(f"Bearer {secret}"))) == [secret]
    for form in forms(secret):
        assert secrets_in(f"... {form} ...") == [secret]


def test_objects_that_use_a_remote_model(server: FakeServer) -> None:
    """Settings, configurations, rerankers, adapters, engines and rankings."""
    model = remote(server)
    reranker = Reranker(model, cache=Cache(memory_mb=1))
    ranking = reranker.rank("faust", DOCUMENTS)  # works only with the token
    cascade = Cascade([(Reranker(FakeCrossEncoder()), 2), reranker])
    compressor = CrossEncoderCompressor(model=model)
    check(
        model=model,
        config=ModelConfig("remote", spec=model),
        reranker=reranker,
        cascade=cascade,
        compressor=compressor,
        scorer=CrossEncoderModel(model=model),
        postprocessor=CrossEncoderPostprocessor(model=model),
        engine=reranker.engine,
        identity=reranker.engine.identity,
        stats=reranker.engine.stats(),
        backend=reranker.engine.backend,
        ranking=ranking,
    )
    reranker.close()


def test_files(server: FakeServer, tmp_path: Path) -> None:
    pytest.importorskip("diskcache")
    with Reranker(remote(server), cache=Cache(memory_mb=1)) as reranker:
        reranker.rank("faust", DOCUMENTS)
        (tmp_path / "ranking.pickle").write_bytes(pickle.dumps(reranker.rank("faust", DOCUMENTS)))
        (tmp_path / "reranker.pickle").write_bytes(
            pickle.dumps(CrossEncoderCompressor(model=remote(server)))
        )
    for file in tmp_path.rglob("*"):
        assert not secrets_in(file.read_bytes().decode("latin-1")), file


def repeat_token(_: Any, __: Any) -> Response:
    """Return a response that contains the token, as a careless server may."""
    return Response(401, json.dumps({"error": f"no such token: {CLIENT_TOKEN}"}))


MISBEHAVIORS: Final[dict[str, Callable[..., Response | None]]] = {
    "repeats it": repeat_token,
    "repeats it in a valid response": lambda *_: Response(
        200, json.dumps([{"token": CLIENT_TOKEN}])
    ),
    "repeats it in a header": lambda *_: Response(503, "busy", Retry_After=CLIENT_TOKEN),
    "fails": respond(500),
    "drops the connection": drop_connection,
}


@pytest.mark.parametrize("misbehavior", MISBEHAVIORS)
def test_errors_logs_and_spans_of_a_failed_request(
    server: FakeServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    spans: Spans,
    misbehavior: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.always = MISBEHAVIORS[misbehavior]
    with Reranker(remote(server)) as reranker, pytest.raises(RerankError) as caught:
        reranker.rank("faust", DOCUMENTS)
    assert not secrets_in(error_text(caught.value))
    assert not secrets_in(pickle.dumps(str(caught.value)).decode("latin-1"))
    assert {"rerank_plugins", "httpcore"} & {
        record.name.partition(".")[0] for record in caplog.records
    }
    records = "".join(f"{vars(record)}" for record in caplog.records)
    assert not secrets_in(caplog.text + records)
    assert spans.all()
    assert not secrets_in(spans.json())
    assert not secrets_in("".join(capfd.readouterr()))


def test_responses_logs_and_spans_of_the_server(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    spans: Spans,
) -> None:
    """Every page, with the right token, a wrong one and none, and with a failing model."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("RERANK_PLUGINS_TOKEN", SERVER_TOKEN)

    def score(query: str, document: str) -> float:
        if query == "bad":
            raise ValueError(query)
        return float(len(document))

    settings = ServerSettings(model=FakeCrossEncoder(score), embedding_model=None)
    app = create_app(settings)
    check(settings=settings, app=app, middleware=app.user_middleware, state=vars(app.state))
    texts = [json.dumps(app.openapi())]
    with live(settings) as running, httpx.Client(base_url=running.url) as http:
        for token in (SERVER_TOKEN, SERVER_TOKEN[:-1], f"{SERVER_TOKEN}x", None):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            http.headers.update(headers)
            responses = [
                http.get(path)
                for path in ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/no")
            ]
            for query in ("faust", "bad"):
                body = {"query": query, "texts": DOCUMENTS}
                responses.append(http.post("/rerank", json=body))
            responses.append(http.post("/rerank", content=b"{", headers={"X-Request-ID": "x"}))
            statuses = {response.status_code for response in responses}
            assert ({401} if token != SERVER_TOKEN else {200, 424}) <= statuses
            texts += [
                f"{response.status_code} {response.headers} {response.text}"
                for response in responses
            ]
            http.headers.pop("Authorization", None)
        model = RemoteSpec(running.url, api="rerank-plugins", token=SERVER_TOKEN)
        with Reranker(model) as reranker:
            assert len(reranker.rank("faust", DOCUMENTS)) == 2
            with pytest.raises(RerankError) as caught:
                reranker.rank("bad", DOCUMENTS)
        wrong = dataclasses.replace(model, token="not it")  # noqa: S106
        with Reranker(wrong) as reranker, pytest.raises(RemoteStatusError):
            reranker.rank("faust", DOCUMENTS)
    texts += [error_text(caught.value), caplog.text, spans.json(), *capfd.readouterr()]
    texts += [f"{vars(record)}" for record in caplog.records if not record.name.startswith("httpx")]
    assert not secrets_in("\n".join(texts))


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Restore the log settings that commands change: their output is closed afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "rerank_plugins", "uvicorn")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.usefixtures("restored_logging")
def test_settings_of_ray_and_output_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The token is in the environment, where each process reads it."""
    monkeypatch.setenv("RERANK_PLUGINS_TOKEN", SERVER_TOKEN)
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    settings = RayServeSettings(require_token=True)
    check(settings=settings, server=ServerSettings(**settings.server()))
    runner = CliRunner()
    missing = str(tmp_path / "nowhere")
    for arguments in (
        ["serve", "--help"],
        ["serve", "--port", "99999"],
        ["serve", "--token", f"{SERVER_TOKEN} and a space"],
        ["serve", "--token", SERVER_TOKEN, "--max-documents", "0"],
        ["serve", "--token", SERVER_TOKEN, "--host", "256.256.256.256", "--model", missing],
        ["rerank", "a question", "--model", missing],
        ["rerank", "a question", "--model", "owner/nothing", "--local-files-only"],
        ["batch", missing, str(tmp_path / "out"), "--model", missing],
    ):
        result = runner.invoke(command, arguments)
        assert result.output, arguments
        assert (result.exit_code == 0) == (arguments[-1] == "--help"), arguments
        assert not secrets_in(re.sub(r"\s*│\s*", "", result.output)), arguments
        assert not secrets_in(result.output), arguments
        if result.exception is not None:
            assert not secrets_in(error_text(result.exception)), arguments


def test_errors_and_logs_of_a_model_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    settings: dict[str, Any] = {"local_files_only": True, "cache_folder": str(tmp_path)}
    with pytest.raises(RerankError) as caught:
        Reranker("owner/nothing", **settings).warm_up()
    assert not secrets_in(error_text(caught.value))
    assert not secrets_in(caplog.text)
    check(compressor=CrossEncoderCompressor(model="owner/nothing", **settings))
