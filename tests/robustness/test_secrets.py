"""Everything that knows a secret, shown in every way: the secret is in none of it."""

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
from tests.helpers.fake_server import TOKEN as CLIENTS
from tests.helpers.fake_server import Answer, StandIn, cut, says
from tests.serving.live import live
from tests.tracing.conftest import Spans, exporter, spans

__all__ = ["exporter", "spans"]  # fixtures

SERVERS: Final = "srv-0penSesame!/with+chars=~"
HUBS: Final = "hf_NoSuchTokenAnywhere123456789"
SECRETS: Final = (CLIENTS, SERVERS, HUBS)
DOCUMENTS: Final = ["rain falls", "goethe wrote faust"]


def forms(secret: str) -> Iterator[str]:
    """Yield what a secret may look like: as it is, in an address, in JSON, in base64."""
    yield secret
    yield quote(secret)
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]
    yield repr(secret.encode())[2:-1]
    yield base64.b64encode(secret.encode()).decode()


def found_in(shown: str) -> list[str]:
    """Return the secrets that a text holds."""
    return [secret for secret in SECRETS if any(form in shown for form in forms(secret))]


def ways_to_show(value: Any) -> Iterator[tuple[str, str]]:
    """Yield a value in every representation that it has."""
    yield "repr", repr(value)
    yield "str", str(value)
    yield "format", f"{value}"
    yield "vars", repr(getattr(value, "__dict__", None))
    ways: dict[str, Callable[[], str]] = {
        "pickle": lambda: pickle.dumps(value).decode("latin-1"),
        "copy": lambda: repr(vars(copy.copy(value))),
        "state": lambda: repr(value.__getstate__()),
        "dict": lambda: json.dumps(value.to_dict(), default=str),
        "json": lambda: str(value.to_json()),
        "fields": lambda: repr(dataclasses.asdict(value)),
        "langchain": lambda: str(dumps(value)),
    }
    for name, make in ways.items():
        with suppress(TypeError, AttributeError, pickle.PicklingError, NotImplementedError):
            yield name, make()
    if isinstance(value, BaseModel):
        yield "model_dump", repr(value.model_dump())
        yield "model_dump json", value.model_dump_json()
        yield "schema", json.dumps(type(value).model_json_schema())


def check(**values: Any) -> None:
    """Fail if a secret is in any representation of any of the values."""
    for name, value in values.items():
        for way, shown in ways_to_show(value):
            assert not found_in(shown), f"a secret is in the {way} of {name}: {shown}"


def chain(error: BaseException) -> str:
    """Return an error with its causes and contexts, as a traceback shows them."""
    texts = traceback.TracebackException.from_exception(error).format()
    return f"{error!r} {error.args!r} {vars(error)!r} " + "".join(texts)


@pytest.fixture
def server() -> Iterator[StandIn]:
    stand_in = StandIn("tei")
    yield stand_in
    stand_in.stop()


def remote(server: StandIn, **settings: Any) -> RemoteSpec:
    given: dict[str, Any] = {
        "timeout_s": 5.0,
        "deadline_s": 5.0,
        "retries": 0,
        "token": CLIENTS,
    } | settings
    return RemoteSpec(server.url, api="tei", **given)


@dataclasses.dataclass
class Careless:
    token: str


@pytest.mark.parametrize("secret", SECRETS)
def test_the_search_finds_a_secret_that_is_shown(secret: str) -> None:
    with pytest.raises(AssertionError, match="a secret is in the repr of careless"):
        check(careless=Careless(secret))
    assert found_in(chain(ValueError(f"Bearer {secret}"))) == [secret]
    for form in forms(secret):
        assert found_in(f"... {form} ...") == [secret]


def test_no_representation_of_what_asks_a_server(server: StandIn) -> None:
    """Settings, configurations, rerankers, adapters of both frameworks, engines, rankings."""
    model = remote(server)
    reranker = Reranker(model, cache=Cache(memory_mb=1))
    ranking = reranker.rank("faust", DOCUMENTS)  # it does know the token: the server checks it
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


def test_nothing_of_it_is_on_the_disk(server: StandIn, tmp_path: Path) -> None:
    pytest.importorskip("diskcache")
    with Reranker(remote(server), cache=Cache(memory_mb=1)) as reranker:
        reranker.rank("faust", DOCUMENTS)
        (tmp_path / "ranking.pickle").write_bytes(pickle.dumps(reranker.rank("faust", DOCUMENTS)))
        (tmp_path / "reranker.pickle").write_bytes(
            pickle.dumps(CrossEncoderCompressor(model=remote(server)))
        )
    for file in tmp_path.rglob("*"):
        assert not found_in(file.read_bytes().decode("latin-1")), file


def repeats(_: Any, __: Any) -> Answer:
    """Answer as a careless server does: with the token in it."""
    return Answer(401, json.dumps({"error": f"no such token: {CLIENTS}"}))


TROUBLES: Final[dict[str, Callable[..., Answer | None]]] = {
    "repeats it": repeats,
    "repeats it as an answer": lambda *_: Answer(200, json.dumps([{"token": CLIENTS}])),
    "repeats it in a header": lambda *_: Answer(503, "busy", Retry_After=CLIENTS),
    "fails": says(500),
    "drops the connection": cut,
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_error_log_or_span_of_a_failed_request(
    server: StandIn,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    spans: Spans,
    trouble: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.always = TROUBLES[trouble]
    with Reranker(remote(server)) as reranker, pytest.raises(RerankError) as caught:
        reranker.rank("faust", DOCUMENTS)
    assert not found_in(chain(caught.value))
    assert not found_in(pickle.dumps(str(caught.value)).decode("latin-1"))
    assert {"rerank_plugins", "httpcore"} & {one.name.partition(".")[0] for one in caplog.records}
    records = "".join(f"{vars(one)}" for one in caplog.records)
    assert not found_in(caplog.text + records)
    assert spans.all()
    assert not found_in(spans.json())
    assert not found_in("".join(capfd.readouterr()))


def test_no_answer_log_or_span_of_our_server(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    spans: Spans,
) -> None:
    """Every page of it, with the right token, a wrong one and none, and a fault in the model."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("RERANK_PLUGINS_TOKEN", SERVERS)

    def score(query: str, document: str) -> float:
        if query == "bad":
            raise ValueError(query)
        return float(len(document))

    settings = ServerSettings(model=FakeCrossEncoder(score), embedding_model=None)
    app = create_app(settings)
    check(settings=settings, app=app, middleware=app.user_middleware, state=vars(app.state))
    shown = [json.dumps(app.openapi())]
    with live(settings) as running, httpx.Client(base_url=running.url) as http:
        for token in (SERVERS, SERVERS[:-1], f"{SERVERS}x", None):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            http.headers.update(headers)
            answers = [
                http.get(path)
                for path in ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json", "/no")
            ]
            for query in ("faust", "bad"):
                body = {"query": query, "texts": DOCUMENTS}
                answers.append(http.post("/rerank", json=body))
            answers.append(http.post("/rerank", content=b"{", headers={"X-Request-ID": "x"}))
            statuses = {answer.status_code for answer in answers}
            assert ({401} if token != SERVERS else {200, 424}) <= statuses
            shown += [f"{answer.status_code} {answer.headers} {answer.text}" for answer in answers]
            http.headers.pop("Authorization", None)
        model = RemoteSpec(running.url, api="rerank-plugins", token=SERVERS)
        with Reranker(model) as reranker:
            assert len(reranker.rank("faust", DOCUMENTS)) == 2
            with pytest.raises(RerankError) as caught:
                reranker.rank("bad", DOCUMENTS)
        wrong = dataclasses.replace(model, token="not it")  # noqa: S106
        with Reranker(wrong) as reranker, pytest.raises(RemoteStatusError):
            reranker.rank("faust", DOCUMENTS)
    shown += [chain(caught.value), caplog.text, spans.json(), *capfd.readouterr()]
    shown += [f"{vars(one)}" for one in caplog.records if not one.name.startswith("httpx")]
    assert not found_in("\n".join(shown))


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Undo what a command does to the log of its process: its output is closed after it."""
    loggers = [logging.getLogger(name) for name in ("", "rerank_plugins", "uvicorn")]
    before = [(one.level, one.handlers[:]) for one in loggers]
    yield
    for one, (level, handlers) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.handlers[:] = handlers


@pytest.mark.usefixtures("own_logging")
def test_no_setting_of_ray_and_no_output_of_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The token is in the environment, where every process reads it for itself."""
    monkeypatch.setenv("RERANK_PLUGINS_TOKEN", SERVERS)
    monkeypatch.setenv("HF_TOKEN", HUBS)
    settings = RayServeSettings(require_token=True)
    check(settings=settings, server=ServerSettings(**settings.server()))
    runner = CliRunner()
    missing = str(tmp_path / "nowhere")
    for arguments in (
        ["serve", "--help"],
        ["serve", "--port", "99999"],
        ["serve", "--token", f"{SERVERS} and a space"],
        ["serve", "--token", SERVERS, "--max-documents", "0"],
        ["serve", "--token", SERVERS, "--host", "256.256.256.256", "--model", missing],
        ["rerank", "a question", "--model", missing],
        ["rerank", "a question", "--model", "owner/nothing", "--local-files-only"],
        ["batch", missing, str(tmp_path / "out"), "--model", missing],
    ):
        result = runner.invoke(command, arguments)
        assert result.output, arguments
        assert (result.exit_code == 0) == (arguments[-1] == "--help"), arguments
        assert not found_in(re.sub(r"\s*│\s*", "", result.output)), arguments
        assert not found_in(result.output), arguments
        if result.exception is not None:
            assert not found_in(chain(result.exception)), arguments


def test_no_error_and_no_log_of_a_model_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", HUBS)
    settings: dict[str, Any] = {"local_files_only": True, "cache_folder": str(tmp_path)}
    with pytest.raises(RerankError) as caught:
        Reranker("owner/nothing", **settings).warm_up()
    assert not found_in(chain(caught.value))
    assert not found_in(caplog.text)
    check(compressor=CrossEncoderCompressor(model="owner/nothing", **settings))
