"""A small training: real models, and real texts of the packaged retrieval set."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.evaluation.beir import read_beir
from training.mine import Miner
from training.packed import Packed
from training.prepare import prepare
from training.prepared import Prepared
from training.settings import Settings, read_settings

SQUAD = Path(__file__).parents[2] / "rerank_plugins" / "data" / "squad-dev"
LISTS = {
    "window": 6,
    "passage": 3,
    "sentence": 3,
    "faq": 5,
    "question": 5,
    "paragraph": 4,
    "phrase": 3,
}


def write_groups(folder: Path, *names: str, groups: int = 20) -> Path:
    """Write files of training groups: questions, their passages and neighbours of those."""
    data = read_beir(SQUAD)
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(data.qrels.items())
    for number, name in enumerate(names):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            for query, judged in rows[number * 40 : number * 40 + groups]:
                positive = data.by_id[next(iter(judged))]
                at = data.passages.index(positive)
                near = [data.passages[at - 1].text, data.passages[at - 2].text]
                row = {
                    "query": data.queries[query],
                    "positives": [positive.text],
                    "negatives": near,
                }
                file.write(json.dumps(row) + "\n")
    return folder


def small(**train: object) -> Settings:
    """Return the configuration with small numbers."""
    settings = read_settings().model_dump()
    settings["train"] |= {"lists": 2, "group": 1, "max_length": 64, "warmup": 1, **train}
    source = {"passages": 40, "held_out": 2, "lists": LISTS}
    settings["sources"] = {"first": source, "second": source}
    return Settings.model_validate(settings)


@pytest.fixture(scope="session")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_groups(tmp_path_factory.mktemp("groups"), "first", "second")


@pytest.fixture(scope="session")
def prepared(groups: Path) -> Prepared:
    return prepare([groups], small())


@pytest.fixture(scope="session")
def packed(prepared: Prepared) -> Packed:
    return Miner(prepared, small(), BiEncoder(), Reranker()).packed()


@pytest.fixture(scope="session")
def lists(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the packed lists."""
    return packed.save(tmp_path_factory.mktemp("lists")).parent
