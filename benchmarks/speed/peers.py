"""The compared systems, called as their users call them.

A system is a class with four members: the constructor takes a model folder, a device, a data type
and its own settings; ``inputs(query, texts)`` creates what a user passes; ``call(inputs)`` is the
only part that is timed; ``scores(output)`` returns a score per text, in the order of the texts.

Each class imports its own library, because each runs in an environment that has no other.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_LENGTH = 512
_FLASHRANK_NAME = "ms-marco-MiniLM-L-12-v2"
_START_S = 120.0
_TIMEOUT_S = 600.0


class Ours:
    """``Reranker.rank``."""

    def __init__(self, *, model: str, device: str, dtype: Any, backend: str = "torch") -> None:
        """Load the model."""
        from rerank_plugins import Reranker

        self._reranker = Reranker(model, device=device, dtype=dtype, backend=backend).warm_up()

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[str, list[str]]:
        """Return the arguments of ``rank``."""
        return query, list(texts)

    def call(self, inputs: tuple[str, list[str]]) -> Any:
        """Rank texts."""
        return self._reranker.rank(*inputs)

    def scores(self, output: Any) -> list[float]:
        """Return the raw scores in the order of the texts."""
        scores = {document.index: document.raw_score for document in output}
        return [scores[number] for number in range(len(scores))]


class OursLangChain:
    """This package's LangChain compressor."""

    def __init__(self, *, model: str, device: str, dtype: Any, backend: str = "torch") -> None:
        """Load the model."""
        from rerank_plugins import Reranker
        from rerank_plugins.langchain import CrossEncoderCompressor

        settings: dict[str, Any] = {"device": device, "dtype": dtype, "backend": backend}
        self._reranker = Reranker(model, **settings).warm_up()  # shared with the adapter
        self.adapter = CrossEncoderCompressor(model=model, top_n=None, **settings)

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[str, list[Any]]:
        """Return documents whose ids are their positions."""
        return query, _documents(texts)

    def call(self, inputs: tuple[str, list[Any]]) -> Any:
        """Rerank documents."""
        query, documents = inputs
        return self.adapter.compress_documents(documents, query)

    def scores(self, output: Any) -> list[float]:
        """Return the relevance scores in the order of the documents."""
        scores = {int(str(doc.id)): float(doc.metadata["relevance_score"]) for doc in output}
        return [scores[number] for number in range(len(scores))]


class OursLlamaIndex:
    """This package's LlamaIndex postprocessor."""

    def __init__(self, *, model: str, device: str, dtype: Any, backend: str = "torch") -> None:
        """Load the model."""
        from rerank_plugins import Reranker
        from rerank_plugins.llama_index import CrossEncoderPostprocessor

        settings: dict[str, Any] = {"device": device, "dtype": dtype, "backend": backend}
        self._reranker = Reranker(model, **settings).warm_up()  # shared with the adapter
        self.adapter = CrossEncoderPostprocessor(model=model, top_n=None, **settings)

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[list[Any], Any]:
        """Return nodes whose ids are their positions, and the query."""
        return _nodes(query, texts)

    def call(self, inputs: tuple[list[Any], Any]) -> Any:
        """Rerank nodes."""
        return self.adapter.postprocess_nodes(*inputs)

    def scores(self, output: Any) -> list[float]:
        """Return the relevance scores in the order of the nodes."""
        return _node_scores(output)


class SentenceTransformers:
    """``CrossEncoder.predict`` with its default batch size.

    Raw scores cost as much as those after a sigmoid.
    """

    def __init__(self, *, model: str, device: str, dtype: str, backend: Any = "torch") -> None:
        """Load the model."""
        import torch
        from sentence_transformers import CrossEncoder

        options = {"dtype": getattr(torch, dtype)} if backend == "torch" else {}
        self._model = CrossEncoder(
            model,
            device=device,
            max_length=MAX_LENGTH,
            activation_fn=torch.nn.Identity(),
            backend=backend,
            model_kwargs=options,
        )

    def inputs(self, query: str, texts: Sequence[str]) -> list[tuple[str, str]]:
        """Return pairs."""
        return [(query, text) for text in texts]

    def call(self, pairs: list[tuple[str, str]]) -> Any:
        """Score pairs."""
        return self._model.predict(pairs)

    def scores(self, output: Any) -> list[float]:
        """Return the scores."""
        return [float(score) for score in output]


class FlagEmbedding:
    """``FlagReranker`` with its default batch size."""

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Load the model."""
        from FlagEmbedding import FlagReranker

        half = dtype == "float16"
        self._model = FlagReranker(model, use_fp16=half, devices=[device], max_length=MAX_LENGTH)

    def inputs(self, query: str, texts: Sequence[str]) -> list[tuple[str, str]]:
        """Return pairs."""
        return [(query, text) for text in texts]

    def call(self, pairs: list[tuple[str, str]]) -> Any:
        """Score pairs."""
        return self._model.compute_score(pairs)

    def scores(self, output: Any) -> list[float]:
        """Return the scores."""
        return [float(score) for score in output]


class LangChain:
    """``CrossEncoderReranker`` over ``HuggingFaceCrossEncoder``."""

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Load the model."""
        import torch
        from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
        from langchain_community.cross_encoders import HuggingFaceCrossEncoder

        class Recording(HuggingFaceCrossEncoder):  # type: ignore[misc]  # not installed here
            """Records the last scores, which the returned documents do not have."""

            last: Any = None

            def score(self, text_pairs: list[tuple[str, str]]) -> Any:
                self.last = super().score(text_pairs)
                return self.last

        options = {
            "device": device,
            "max_length": MAX_LENGTH,
            "model_kwargs": {"dtype": getattr(torch, dtype)},
        }
        self._model = Recording(model_name=model, model_kwargs=options)
        self._reranker = CrossEncoderReranker(model=self._model, top_n=sys.maxsize)

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[str, list[Any]]:
        """Return documents whose ids are their positions."""
        return query, _documents(texts)

    def call(self, inputs: tuple[str, list[Any]]) -> Any:
        """Rerank documents."""
        query, documents = inputs
        return self._reranker.compress_documents(documents, query)

    def scores(self, output: Any) -> list[float]:
        """Return the scores of the model.

        Raises:
            ValueError: If the documents were not returned in the order of their scores.
        """
        scores = [float(score) for score in self._model.last]
        returned = [scores[int(str(document.id))] for document in output]
        if returned != sorted(scores, reverse=True):
            message = "the documents were not returned in the order of their scores."
            raise ValueError(message)
        return scores


class LlamaIndex:
    """LlamaIndex's postprocessors over sentence-transformers and over FlagEmbedding."""

    def __init__(self, *, model: str, device: str, dtype: str, over: str) -> None:
        """Load the model."""
        self._reranker: Any
        if over == "flag":
            from llama_index.postprocessor.flag_embedding_reranker import FlagEmbeddingReranker

            self._reranker = FlagEmbeddingReranker(
                top_n=sys.maxsize, model=model, use_fp16=dtype == "float16"
            )
        else:
            import torch
            from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank

            options = {"model_kwargs": {"dtype": getattr(torch, dtype)}}
            self._reranker = SentenceTransformerRerank(
                model=model, device=device, top_n=sys.maxsize, cross_encoder_kwargs=options
            )

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[list[Any], Any]:
        """Return nodes whose ids are their positions, and the query; the call changes them."""
        return _nodes(query, texts)

    def call(self, inputs: tuple[list[Any], Any]) -> Any:
        """Rerank nodes."""
        return self._reranker.postprocess_nodes(*inputs)

    def scores(self, output: Any) -> list[float]:
        """Return the scores in the order of the nodes."""
        return _node_scores(output)


class Rerankers:
    """AnswerDotAI's ``rerankers``: the cross-encoder ranker with its default batch size."""

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Load the model."""
        from rerankers import Reranker

        self._ranker = Reranker(
            model, model_type="cross-encoder", device=device, dtype=dtype, verbose=0
        )
        if self._ranker is None:
            message = "rerankers returned no ranker; it printed the reason."
            raise RuntimeError(message)

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[str, list[str]]:
        """Return the arguments of ``rank``."""
        return query, list(texts)

    def call(self, inputs: tuple[str, list[str]]) -> Any:
        """Rank texts."""
        query, texts = inputs
        return self._ranker.rank(query=query, docs=texts)

    def scores(self, output: Any) -> list[float]:
        """Return the scores in the order of the texts."""
        scores = {int(result.document.doc_id): float(result.score) for result in output}
        return [scores[number] for number in range(len(scores))]


class Infinity:
    """Infinity's HTTP server in this process, with its defaults but without remote code."""

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Start the server and wait until it responds."""
        import requests
        import uvicorn
        from infinity_emb.args import EngineArgs
        from infinity_emb.infinity_server import create_server

        engine = EngineArgs(
            model_name_or_path=model,
            served_model_name="model",
            engine="torch",
            device=device.partition(":")[0],
            dtype=dtype,
            trust_remote_code=False,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self._address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(create_server(engine_args_list=[engine]), log_level="warning")
        server = uvicorn.Server(config)
        threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy for the loopback
        # The server closes idle connections, and this one is idle while others are timed.
        self._session.headers["Connection"] = "close"
        end = time.monotonic() + _START_S
        while not server.started:
            if time.monotonic() > end:
                message = f"the server did not start within {_START_S:.0f} s."
                raise TimeoutError(message)
            time.sleep(0.1)

    def inputs(self, query: str, texts: Sequence[str]) -> dict[str, Any]:
        """Return the request."""
        return {"model": "model", "query": query, "documents": list(texts), "raw_scores": True}

    def call(self, request: dict[str, Any]) -> Any:
        """Rerank over HTTP."""
        response = self._session.post(f"{self._address}/rerank", json=request, timeout=_TIMEOUT_S)
        response.raise_for_status()
        return response.json()

    def scores(self, output: Any) -> list[float]:
        """Return the scores in the order of the texts."""
        scores = {int(row["index"]): float(row["relevance_score"]) for row in output["results"]}
        return [scores[number] for number in range(len(scores))]


class FlashRank:
    """FlashRank's ``Ranker`` on ONNX Runtime.

    It loads only the names of its list, from a folder if that exists; so the weights are exported
    to ONNX in float32 and stored under one of these names.
    """

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Export the model, and load the result."""
        from flashrank import Ranker
        from flashrank.Config import model_file_map

        del device, dtype  # a CPU and float32
        self._folder = tempfile.TemporaryDirectory()
        files = Path(self._folder.name) / _FLASHRANK_NAME
        files.mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(model) / name, files)
        # tokenizer.json holds the special tokens, but the file is required.
        (files / "special_tokens_map.json").write_text("{}", encoding="utf-8")
        # In another process, because torch would count as memory of FlashRank.
        export = [sys.executable, "-m", "benchmarks.speed.peers", model]
        subprocess.run([*export, str(files / model_file_map[_FLASHRANK_NAME])], check=True)  # noqa: S603
        self._ranker = Ranker(
            model_name=_FLASHRANK_NAME, cache_dir=self._folder.name, max_length=MAX_LENGTH
        )

    def inputs(self, query: str, texts: Sequence[str]) -> Any:
        """Return a request whose passages have their positions as ids."""
        from flashrank import RerankRequest

        passages = [{"id": number, "text": text} for number, text in enumerate(texts)]
        return RerankRequest(query=query, passages=passages)

    def call(self, request: Any) -> Any:
        """Rerank passages."""
        return self._ranker.rerank(request)

    def scores(self, output: Any) -> list[float]:
        """Return the scores in the order of the passages."""
        scores = {passage["id"]: float(passage["score"]) for passage in output}
        return [scores[number] for number in range(len(scores))]


def export_onnx(model: str, file: str) -> None:
    """Export a BERT model in float32, for any number of pairs and tokens."""
    import torch
    from transformers import AutoModelForSequenceClassification

    names = ["input_ids", "attention_mask", "token_type_ids"]
    loaded = AutoModelForSequenceClassification.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    example = torch.ones((2, 8), dtype=torch.int64)
    torch.onnx.export(
        loaded,
        (example, example, torch.zeros_like(example)),
        file,
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "pairs", 1: "tokens"} for name in names},
        dynamo=False,
    )


def _documents(texts: Sequence[str]) -> list[Any]:
    from langchain_core.documents import Document

    return [Document(text, id=str(number)) for number, text in enumerate(texts)]


def _nodes(query: str, texts: Sequence[str]) -> tuple[list[Any], Any]:
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    nodes = [TextNode(id_=str(number), text=text) for number, text in enumerate(texts)]
    return [NodeWithScore(node=node, score=0.0) for node in nodes], QueryBundle(query)


def _node_scores(output: Any) -> list[float]:
    scores = {int(node.node.node_id): float(node.score or 0.0) for node in output}
    return [scores[number] for number in range(len(scores))]


if __name__ == "__main__":
    export_onnx(*sys.argv[1:])
