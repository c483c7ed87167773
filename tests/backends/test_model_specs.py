"""Model specs survive the serialization of the LangChain and LlamaIndex adapters."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from rerank_plugins import DecoderSpec, FlagSpec, OpenVINOSpec, RemoteSpec
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor

MODELS = [
    DecoderSpec("./tuned", family="qwen3", instruction="Find the clause that applies."),
    FlagSpec("./layers", variant="layerwise", cutoff_layers=8),
    OpenVINOSpec("mini", calibration=[("who wrote Faust", "Goethe did.")]),
    OpenVINOSpec("mini"),
    RemoteSpec("http://127.0.0.1:9", api="tei"),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_spec_survives_serialization(model: Any) -> None:
    compressor = CrossEncoderCompressor(model=model)
    assert CrossEncoderCompressor(**compressor.model_dump()).model == model
    postprocessor = CrossEncoderPostprocessor(model=model)
    assert CrossEncoderPostprocessor.from_dict(postprocessor.to_dict()).model == model
    assert CrossEncoderPostprocessor.from_json(postprocessor.to_json()).model == model
    assert pickle.loads(pickle.dumps(postprocessor)).model == model  # noqa: S301  (pickled by this test)
