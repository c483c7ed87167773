"""Validation of RemoteSpec, and secrecy of its token."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from rerank_plugins import BiEncoder, RemoteSpec, Reranker
from rerank_plugins.errors import ConfigurationError, RemoteStatusError, RerankError
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from tests.backends.remote.conftest import remote
from tests.helpers.fake_server import TOKEN, FakeServer, Misbehavior, drop_connection, respond

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"api": "openai"}, "api is 'openai'; allowed are tei, vllm"),
        ({"url": "mini"}, "url must be an address"),
        ({"url": "ftp://host"}, "url must be an address"),
        ({"url": "http://host:99999"}, "url must be an address"),
        ({"url": []}, "url is empty"),
        ({"url": [URL, 3]}, "url must be an address"),
        ({"url": "https://user:pa55@host"}, "without user, password"),
        ({"url": "https://host?key=pa55"}, "Pass a secret as token or token_env"),
        ({"api": "cohere"}, "needs the name of a model"),
        ({"api": "tei", "model": "m"}, "has one model. Omit model"),
        ({"api": "vllm", "model": 3}, "model is 3"),
        ({"max_documents": 0}, "max_documents is 0"),
        ({"max_characters": True}, "max_characters is True"),
        ({"max_concurrent": 1.5}, r"max_concurrent is 1\.5"),
        ({"max_concurrent": None}, "max_concurrent is None"),
        ({"timeout_s": 0}, "timeout_s is 0"),
        ({"deadline_s": float("nan")}, "deadline_s is nan"),
        ({"deadline_s": "1"}, "deadline_s is '1'"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError, match=error) as caught:
        RemoteSpec(**{"url": URL, "api": "tei"} | settings)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"device": "cpu"}, "device is 'cpu', but .* runs on a server"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"local_files_only": True}, "local_files_only"),
        ({"backend": "torch"}, "backend is 'torch'"),
        ({"backend": "vllm"}, "backend is 'vllm', but .* needs 'tei'"),
    ],
)
def test_settings_of_local_models_are_refused(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        Reranker(RemoteSpec(URL, api="tei"), **settings).warm_up()


def test_a_url_alone_is_not_enough() -> None:
    with pytest.raises(ConfigurationError, match="set backend to the server's API"):
        Reranker(URL).warm_up()
    with pytest.raises(ConfigurationError, match="needs the name of a model"):
        Reranker(URL, backend="jina").warm_up()
    with pytest.raises(ConfigurationError, match="url must be an address"):
        Reranker("mini", backend="tei").warm_up()
    with pytest.raises(ConfigurationError, match="backend is 'tei'; allowed are auto, sentence"):
        BiEncoder(RemoteSpec(URL, api="tei")).warm_up()


def test_equal_settings_compare_equal() -> None:
    spec = RemoteSpec([URL + "/", URL], api="tei", token="a")  # noqa: S106
    assert spec == RemoteSpec(URL, api="tei", token="a")  # noqa: S106
    assert hash(spec) == hash(RemoteSpec(URL, api="tei", token="a"))  # noqa: S106
    assert spec != RemoteSpec(URL, api="tei", token="b")  # noqa: S106
    assert copy.copy(RemoteSpec(URL, api="tei")) == RemoteSpec(URL, api="tei")


def test_the_token_is_in_no_representation() -> None:
    model = RemoteSpec(URL, api="tei", token=TOKEN)
    text = f"{model!r} {model} {model.to_dict()} {vars(model)} {json.dumps(model.to_dict())}"
    assert TOKEN not in text
    assert TOKEN.encode() not in pickle.dumps(model)
    assert model.secret() == TOKEN


def test_a_pickled_spec_reads_its_token_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    without_token = pickle.loads(pickle.dumps(remote(server)))  # noqa: S301
    with pytest.raises(ConfigurationError, match="Set token_env to an environment variable"):
        Reranker(without_token).rank("a", ["b"])
    with_variable = pickle.loads(pickle.dumps(remote(server, token_env="RERANK_TOKEN")))  # noqa: S301,S106
    with pytest.raises(
        ConfigurationError, match="'RERANK_TOKEN', but that environment variable is not set"
    ):
        Reranker(with_variable).rank("a", ["b"])
    monkeypatch.setenv("RERANK_TOKEN", TOKEN)
    assert len(Reranker(with_variable).rank("a", ["b"])) == 1


@pytest.mark.parametrize("token", ["with\nnewline", "grün"])
def test_an_invalid_token_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="no HTTP header can carry") as caught:
        Reranker(RemoteSpec(URL, api="tei", token=token)).warm_up()
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    "failure", [drop_connection, respond(401, f'{{"error": "bad token {TOKEN}"}}'), respond(503)]
)
def test_the_token_is_in_no_error_and_no_log(
    server: FakeServer, caplog: pytest.LogCaptureFixture, failure: Misbehavior
) -> None:
    caplog.set_level(logging.DEBUG)
    server.always = failure
    with pytest.raises(RerankError) as caught:
        Reranker(remote(server, retries=0)).rank("a", ["b"])
    report = "".join(
        traceback.TracebackException.from_exception(caught.value, capture_locals=False).format()
    )
    assert TOKEN not in report
    assert TOKEN not in caplog.text
    assert caplog.records  # httpx and httpcore have logged something
    if isinstance(caught.value, RemoteStatusError) and caught.value.status == 401:
        assert "bad token ***" in str(caught.value)


def test_both_frameworks_rank_remotely(server: FakeServer) -> None:
    model = remote(server)
    texts = ["rain", "goethe wrote faust"]
    compressor = CrossEncoderCompressor(model=model, top_n=1)
    best = compressor.compress_documents([Document(text) for text in texts], "who wrote faust")
    assert [document.page_content for document in best] == texts[1:]
    postprocessor = CrossEncoderPostprocessor(model=model, top_n=1)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
    (top,) = postprocessor.postprocess_nodes(nodes, query_str="who wrote faust")
    assert top.text == texts[1]
    assert compressor.reranker().engine is postprocessor.reranker().engine
    for adapter in (compressor, postprocessor):
        assert TOKEN not in f"{adapter!r}{adapter.model_dump()}{adapter.model_dump_json()}"


def test_specs_survive_serialization_of_adapters(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANK_TOKEN", TOKEN)
    model = remote(server, token=None, token_env="RERANK_TOKEN")  # noqa: S106
    processor = CrossEncoderPostprocessor(model=model, top_n=1)
    restored = CrossEncoderPostprocessor.from_dict(json.loads(processor.to_json()))
    assert restored.model == model
    assert pickle.loads(pickle.dumps(processor)).model == model  # noqa: S301
    compressor = CrossEncoderCompressor(model=model)
    assert CrossEncoderCompressor(**json.loads(compressor.model_dump_json())).model == model


def test_nothing_is_sent_before_the_first_ranking(server: FakeServer, tmp_path: Path) -> None:
    Reranker(remote(server)).warm_up()
    assert server.requests == []
    assert len(Reranker(remote(server)).rank("query", [])) == 0
    assert server.requests == []
