"""FlashRank's ``Ranker`` on ONNX Runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashrank import Ranker, RerankRequest
from flashrank.Config import model_file_map

_NAME = "ms-marco-MiniLM-L-12-v2"


class FlashRank:
    """Loads only names from a list of its own, from a folder if that is there already.

    So the weights are exported to ONNX, float32, and put where it looks for one of those names.
    """

    def __init__(self, *, model: str, device: str, dtype: str) -> None:
        """Export the model, and load the result."""
        self._folder = tempfile.TemporaryDirectory()
        files = Path(self._folder.name) / _NAME
        files.mkdir()
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(model) / name, files)
        # The special tokens stand in tokenizer.json; the file is asked for all the same.
        (files / "special_tokens_map.json").write_text("{}", encoding="utf-8")
        # In a process of its own, because torch would count as memory of FlashRank.
        export = [sys.executable, "-m", "benchmarks.speed.peers.onnx_export"]
        subprocess.run([*export, model, str(files / model_file_map[_NAME])], check=True)  # noqa: S603
        self._ranker = Ranker(model_name=_NAME, cache_dir=self._folder.name, max_length=512)

    def inputs(self, query: str, texts: Sequence[str]) -> RerankRequest:
        """Return a request whose passages know their position."""
        passages = [{"id": number, "text": text} for number, text in enumerate(texts)]
        return RerankRequest(query=query, passages=passages)

    def call(self, request: RerankRequest) -> Any:
        """Rerank passages."""
        return self._ranker.rerank(request)

    def scores(self, output: Any) -> list[float]:
        """Return the scores in the passages' order."""
        found = {one["id"]: float(one["score"]) for one in output}
        return [found[number] for number in range(len(found))]
