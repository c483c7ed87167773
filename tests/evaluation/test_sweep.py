"""Sweeps: shared work, values of each cell, and resuming after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rerank_plugins import BiEncoder, Fusion, Reranker
from rerank_plugins.cli.app import app
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation import evaluate, from_documents, sweep
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from tests.evaluation.sets import QRELS, QUERIES, TEXTS, small_set
from tests.helpers.engines import PinnedBiEncoder, PinnedCrossEncoder

ROOT = Path(__file__).parents[2]


def pairs_of(backend: FakeCrossEncoder) -> list[tuple[str, str]]:
    return [(pair.query, pair.document) for batch in backend.batches for pair in batch]


def test_the_values_of_a_cell_equal_those_of_an_evaluation() -> None:
    backend, encoder = FakeCrossEncoder(), BiEncoder(FakeBiEncoder())
    fused: dict[str, Any] = {"fusion": Fusion("weighted", 0.4)}
    result = sweep(small_set(), [backend], [2, 6], [{}, fused], encoder=encoder)
    assert [cell.label for cell in result.cells] == [
        "bi-encoder alone",
        "fake, top 2",
        "fake, top 6",
        "fake (fusion=Fusion(method='weighted', weight=0.4)), top 2",
        "fake (fusion=Fusion(method='weighted', weight=0.4)), top 6",
    ]
    stored = json.loads(json.dumps(result.to_dict()))["cells"][3]["steps"][0]["options"]
    assert stored == {"fusion": {"method": "weighted", "weight": 0.4}}
    for number, options in ((2, {}), (4, fused)):
        ranker = Reranker(backend, **options)
        evaluation = evaluate(
            small_set(), {"a": ranker, "b": encoder}, first_stage=encoder, depth=6
        )
        assert result.cells[number].values == evaluation["a"].values
        assert result.cells[0].values == evaluation["b"].values


def test_pairs_are_scored_once_and_passages_embedded_once(tmp_path: Path) -> None:
    backend, embedder = PinnedCrossEncoder("once"), PinnedBiEncoder()
    options = [{}, {"fusion": "rrf"}]
    settings = {"timed_questions": 1, "encoder": BiEncoder(embedder), "folder": tmp_path}
    sweep(small_set(), [backend], [2, 4], options, **settings)  # type: ignore[arg-type]
    pairs = pairs_of(backend)
    # Four questions at depth 4, and one question per cell to load the model and one to time.
    assert len(pairs) == 4 * 4 + 2 * 2 * (2 + 4)
    assert len(set(pairs)) == 4 * 4
    texts = [text for batch in embedder.batches for text in batch]
    assert all(texts.count(text) == 1 for text in TEXTS.values())
    backend.batches.clear()
    embedder.batches.clear()
    again = sweep(small_set(), [backend], [2, 4, 6], options, **settings)  # type: ignore[arg-type]
    assert len(again.cells) == 7
    # Two more pairs per question for the greater depth, and the timing of two cells.
    assert len(pairs_of(backend)) == 4 * 2 + 2 * 2 * 6
    assert not {text for batch in embedder.batches for text in batch} & set(TEXTS.values())


def test_depths_above_the_number_of_passages_mean_all_passages() -> None:
    result = sweep(
        small_set(), [FakeCrossEncoder()], [4, 50, 1000], encoder=BiEncoder(FakeBiEncoder())
    )
    assert [cell.depth for cell in result.cells] == [0, 4, 6]


def test_table_and_comparison() -> None:
    result = sweep(small_set(), [FakeCrossEncoder()], [4], encoder=BiEncoder(FakeBiEncoder()))
    console = Console(width=300, record=True, file=StringIO())
    console.print(result)
    assert "fake, top 4" in console.export_text()
    assert result.compare().winner is None
    assert json.loads(json.dumps(result.to_dict()))["cells"][1]["depth"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": []}, "depths is empty"),
        ({"depths": [0]}, "depths is 0"),
        ({"options": [{"top_n": 3}]}, "options contain 'top_n'"),
        ({"options": [{"fusion": {"weight": 3}}]}, "weight is 3"),
    ],
)
def test_invalid_arguments_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        sweep(small_set(), [FakeCrossEncoder()], **options)


def test_a_set_without_judgments_is_rejected() -> None:
    with pytest.raises(InvalidInputError, match="no judgments"):
        sweep(from_documents(TEXTS, QUERIES))


SLOW = """
    import sys, time
    from pathlib import Path
    from rerank_plugins import BiEncoder
    from rerank_plugins.evaluation import sweep
    from tests.helpers.engines import PinnedBiEncoder, PinnedCrossEncoder
    from tests.evaluation.sets import small_set

    class Slow(PinnedCrossEncoder):
        def run(self, batch):
            time.sleep(float(sys.argv[2]))
            return super().run(batch)

    backend = Slow("slow")
    result = sweep(small_set(), [backend], [1, 2, 3, 4, 5, 6], encoder=BiEncoder(PinnedBiEncoder()),
                  folder=sys.argv[1], timed_questions=1)
    print(sum(len(batch) for batch in backend.batches))
    print([dict(cell.values) for cell in result.cells])
"""


def test_a_killed_sweep_resumes(tmp_path: Path) -> None:
    def start(folder: Path, delay: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(SLOW), str(folder), str(delay)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603

    def cells(folder: Path) -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in folder.glob("cell-*.json")}

    killed, complete = tmp_path / "killed", tmp_path / "complete"
    process = start(killed, 0.1)
    while len(cells(killed)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = cells(killed)
    assert 2 <= len(before) < 6
    (killed / next(iter(before))).write_text("incomplete", "utf-8")  # as after a full disk
    resumed, fresh = (start(folder, 0.0).communicate()[0] for folder in (killed, complete))
    resumed_pairs, values = resumed.splitlines()
    all_pairs, expected = fresh.splitlines()
    assert int(resumed_pairs) < int(all_pairs)
    assert values == expected
    after = cells(killed)
    assert sum(after[name] == written for name, written in before.items()) == len(before) - 1
    arrays = [np.load(next(folder.glob("scores-*.npy"))) for folder in (killed, complete)]
    assert np.array_equal(*arrays)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the small set into a folder."""
    (tmp_path / "qrels").mkdir()
    for name, texts in (("corpus", TEXTS), ("queries", QUERIES)):
        rows = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), "utf-8")
    lines = [
        f"{query}\t{name}\t{grade}"
        for query, grades in QRELS.items()
        for name, grade in grades.items()
    ]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["head", *lines]), "utf-8")
    return tmp_path


@pytest.mark.slow
def test_the_evaluate_command(folder: Path) -> None:
    arguments = ["evaluate", str(folder), "--depths", "2,4", "--option", "max_length=64,fusion=rrf"]
    arguments += ["--folder", str(folder / "results")]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    cells = json.loads(result.stdout)["cells"]
    assert [cell["depth"] for cell in cells] == [0, 2, 4]
    assert cells[1]["steps"][0]["options"] == {"max_length": 64, "fusion": "rrf"}
    assert cells[0]["means"]["nDCG@10"] > 0.9
    table = CliRunner().invoke(app, arguments).stdout
    assert "top 4" in table
    assert max(map(len, table.splitlines())) <= 80
    for invalid, message in (
        (["--depths", "x"], "--depths contains 'x'"),
        (["--option", "a"], "NAME="),
    ):
        result = CliRunner().invoke(app, ["evaluate", str(folder), *invalid])
        assert result.exit_code == 2
        assert message in result.stderr
