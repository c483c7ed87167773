"""``rerank-plugins demo``: two-stage retrieval on real text, measured."""

from __future__ import annotations

import random
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final

import typer

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins._optional import require
from rerank_plugins.cli._console import err, out, progress
from rerank_plugins.cli._frameworks import check_agreement, through_langchain, through_llama_index
from rerank_plugins.cli._report import examples, show_examples, show_table
from rerank_plugins.cli._stages import Answer, TwoStages
from rerank_plugins.core.config import MINI
from rerank_plugins.evaluation.datasets import RetrievalSet, read_beir

DATA: Final = Path(__file__).parents[1] / "data" / "squad-dev"
SEED: Final = 7
NEEDED: Final = {
    "langchain_core": "langchain",
    "llama_index.core": "llama-index",
    "ir_measures": "evaluation",
}


def demo(
    *,
    questions: Annotated[int, typer.Option(min=1, max=300, help="How many to ask.")] = 200,
    depth: Annotated[int, typer.Option(min=1, help="Candidates to rerank.")] = 50,
    time_limit: Annotated[
        float, typer.Option(min=0, help="Ask no more after so many seconds; 0 asks all.")
    ] = 120,
    model: Annotated[
        str, typer.Option(help="The cross-encoder: mini, a Hub name, a folder.")
    ] = MINI,
    encoder: Annotated[
        str, typer.Option(help="The bi-encoder: mini, a Hub name, a folder.")
    ] = MINI,
    max_length: Annotated[int, typer.Option(help="Most tokens a pair may have.")] = 256,
) -> None:
    """Search real text with a bi-encoder, rerank it through both frameworks, and measure."""
    for module, extra in NEEDED.items():
        require(module, extra)
    start = perf_counter()
    data = read_beir(DATA)
    settings: dict[str, Any] = {"model": model, "max_length": max_length}
    stages = TwoStages(data.passages, BiEncoder(encoder), Reranker(**settings).warm_up(), depth)
    answers = _ask(stages, data, questions, time_limit)
    show_examples(answers, data.passages)
    _compare_frameworks(answers, stages, settings)
    show_table(answers, data.passages, depth)
    if len(answers) < questions:
        out.print(
            f"Only {len(answers)} of {questions} questions were asked in {time_limit:.0f} seconds "
            "on this machine; --time-limit 0 asks all.",
            highlight=False,
        )
    if MINI in (model, encoder):
        out.print(
            "The embedded reranker learned from SQuAD's training questions, about other "
            "articles: expect less on texts of another kind.",
            highlight=False,
        )
    out.print(f"Took {perf_counter() - start:.0f} seconds.", highlight=False)


def _ask(stages: TwoStages, data: RetrievalSet, questions: int, time_limit: float) -> list[Answer]:
    """Build the index, then ask random questions until all are asked or time is up."""
    position = {passage.id: number for number, passage in enumerate(data.passages)}
    chosen = random.Random(SEED).sample(list(data.queries), questions)  # noqa: S311  (no secret)
    answers: list[Answer] = []
    err.print(
        f"Indexing {len(data.passages):,} passages, then asking {questions} questions.",
        highlight=False,
    )
    with progress() as bars:
        indexing = bars.add_task("Indexing passages", total=len(data.passages))
        stages.build(lambda done: bars.advance(indexing, done))
        asking = bars.add_task("Asking questions", total=questions)
        start = perf_counter()
        for identifier in chosen:
            right = position[next(iter(data.qrels[identifier]))]
            answers.append(stages.answer(identifier, data.queries[identifier], right))
            bars.advance(asking)
            if 0 < time_limit < perf_counter() - start:
                break
    return answers


def _compare_frameworks(answers: list[Answer], stages: TwoStages, settings: dict[str, Any]) -> None:
    """Rerank the shown questions through both frameworks and check that all agree."""
    shown = examples(answers)
    for answer in shown:
        rankings = {
            "plain Python": answer.after,
            "LangChain": through_langchain(answer, stages.passages, settings),
            "LlamaIndex": through_llama_index(answer, stages.passages, settings),
        }
        check_agreement(answer.question, rankings)
    out.print(
        f"LangChain's compressor and LlamaIndex's postprocessor gave the same order and scores "
        f"for these {len(shown)} questions, {len(shown[0].before)} passages each.\n",
        highlight=False,
    )
