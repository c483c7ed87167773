"""Steps from training groups to a model folder: ``python -m training STEP``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from training.settings import DEFAULT_CONFIG, read_settings

DEFAULT_WORK: Final = Path(__file__).parent / "runs"

Data = Annotated[list[Path], typer.Argument(help="Folders of the training groups.")]
Work = Annotated[Path, typer.Option(help="Folder of all results.")]
Config = Annotated[Path, typer.Option(help="Configuration file.")]
Model = Annotated[Path | None, typer.Option(help="Model folder; WORK/export by default.")]

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.command()
def manuals(
    to: Annotated[Path, typer.Argument(help="Folder of manuals.jsonl.gz.")],
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Download manuals of free software (Debian packages) and write their training groups."""
    from training.manuals import SOURCE, write_groups  # noqa: PLC0415  (imports of one step only)

    settings = read_settings(config)
    if SOURCE not in settings.sources:
        typer.echo(f"[sources.{SOURCE}] is not in {config}: nothing to fetch")
        return
    typer.echo(f"{write_groups(to, settings.seed)} groups")


@app.command()
def prepare(data: Data, work: Work = DEFAULT_WORK, config: Config = DEFAULT_CONFIG) -> None:
    """Choose passages, hold some out, and split all into windows and sentences."""
    from training.prepare import prepare as build_corpus  # noqa: PLC0415

    build_corpus(data, read_settings(config)).save(work / "prepared")


@app.command()
def mine(work: Work = DEFAULT_WORK, config: Config = DEFAULT_CONFIG) -> None:
    """Find candidates and soft targets for all queries, and tokenize them."""
    from training.corpus import Corpus  # noqa: PLC0415
    from training.mine import Miner, bi_encoder, cross_encoder  # noqa: PLC0415

    corpus = Corpus.load(work / "prepared")
    encoder = bi_encoder(work / "vectors")
    miner = Miner(corpus, read_settings(config), encoder, cross_encoder())
    miner.dataset().save(work / "prepared")


@app.command()
def train(
    work: Work = DEFAULT_WORK,
    config: Config = DEFAULT_CONFIG,
    *,
    steps: Annotated[int | None, typer.Option(help="Total steps; one epoch by default.")] = None,
    hours: Annotated[float | None, typer.Option(help="Time limit of this run.")] = None,
) -> None:
    """Train, from the checkpoint if there is one; SIGTERM or Ctrl-C writes a checkpoint."""
    from training.train import Trainer  # noqa: PLC0415

    trainer = Trainer(work / "prepared", work, read_settings(config))
    trainer.train(steps, hours and hours * 3600)


@app.command()
def export(
    work: Work = DEFAULT_WORK,
    config: Config = DEFAULT_CONFIG,
    *,
    to: Model = None,
) -> None:
    """Write the averaged weights, mixed with the initial ones, as a calibrated model folder."""
    from training.export import export as write_export  # noqa: PLC0415
    from training.train import Trainer  # noqa: PLC0415

    settings = read_settings(config)
    trainer = Trainer(work / "prepared", work, settings)
    write_export(trainer, to or work / "export", settings)


@app.command()
def evaluate(
    sets: Annotated[Path, typer.Argument(help="Folder of the retrieval sets.")],
    work: Work = DEFAULT_WORK,
    *,
    model: Model = None,
    questions: Annotated[int, typer.Option(help="Questions per set; 0 is all.")] = 0,
    backend: Annotated[str, typer.Option(help="Backend of both models.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Data type of both models.")] = "auto",
    quick: Annotated[bool, typer.Option(help="Leave out the models over BM25.")] = False,
) -> None:
    """Compare a model with the packaged one on retrieval sets that are not trained on."""
    from rerank_plugins import Reranker  # noqa: PLC0415
    from training.evaluate import evaluate as evaluate_sets  # noqa: PLC0415
    from training.export import write_json  # noqa: PLC0415

    folder = model or work / "export"
    settings: dict[str, Any] = {"backend": backend, "dtype": dtype}
    rerankers = {"packaged": Reranker(**settings), "trained": Reranker(folder, **settings)}
    result = evaluate_sets(rerankers, sets, work / "scores", questions, quick=quick)
    write_json(folder / "evaluation.json", result)


@app.command()
def card(work: Work = DEFAULT_WORK, *, model: Model = None) -> None:
    """Write the model card from the figures in the model folder."""
    from training.model_card import write_card  # noqa: PLC0415

    write_card(model or work / "export")


if __name__ == "__main__":
    app()
