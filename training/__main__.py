"""The steps from training groups to a model's folder: ``python -m training STEP``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from training.settings import DEFAULT, read_settings

Data = Annotated[list[Path], typer.Argument(help="Folders of the training groups.")]
Work = Annotated[Path, typer.Option(help="Folder of everything that is made.")]
Config = Annotated[Path, typer.Option(help="The configuration file.")]

WORK: Final = Path(__file__).parent / "runs"

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.command()
def manuals(
    to: Annotated[Path, typer.Argument(help="Folder that manuals.jsonl.gz is written to.")],
    config: Config = DEFAULT,
) -> None:
    """Fetch manuals of free software (Debian's packages), and write their training groups."""
    from training.manuals.gather import NAME, gather  # noqa: PLC0415  (only what a step needs)

    settings = read_settings(config)
    if NAME not in settings.sources:
        typer.echo(f"[sources.{NAME}] is not in {config}: nothing to fetch")
        return
    typer.echo(f"{gather(to, settings.seed)} groups")


@app.command()
def prepare(data: Data, work: Work = WORK, config: Config = DEFAULT) -> None:
    """Choose passages, hold some out, cut them into windows and sentences."""
    from training.prepare import prepare as run  # noqa: PLC0415  (only what a step needs)

    run(data, read_settings(config)).save(work / "prepared")


@app.command()
def mine(work: Work = WORK, config: Config = DEFAULT) -> None:
    """Find candidates and soft targets for all queries, and pack them."""
    from training.mine import Miner  # noqa: PLC0415
    from training.prepared import Prepared  # noqa: PLC0415
    from training.teachers import bi_encoder, reader  # noqa: PLC0415

    prepared = Prepared.load(work / "prepared")
    encoder = bi_encoder(work / "vectors")
    Miner(prepared, read_settings(config), encoder, reader()).packed().save(work / "prepared")


@app.command()
def train(
    work: Work = WORK,
    config: Config = DEFAULT,
    *,
    steps: Annotated[int | None, typer.Option(help="In all; None is one pass.")] = None,
    hours: Annotated[float | None, typer.Option(help="Most time of this run.")] = None,
) -> None:
    """Train, from the checkpoint where there is one; a signal ends it with a checkpoint."""
    from training.train import Training, start_model  # noqa: PLC0415

    run = Training(work / "prepared", work, read_settings(config), start_model())
    run.run(run.feeder.steps if steps is None else steps, hours and hours * 3600)


@app.command()
def export(
    work: Work = WORK,
    config: Config = DEFAULT,
    *,
    to: Annotated[Path | None, typer.Option(help="Folder; None is WORK/export.")] = None,
) -> None:
    """Write the checkpoint's averaged weights, mixed, as a model's folder with calibration."""
    from training.calibrate import calibration  # noqa: PLC0415
    from training.export import export as run  # noqa: PLC0415
    from training.export import write_json  # noqa: PLC0415
    from training.train import Training, start_model  # noqa: PLC0415

    settings = read_settings(config)
    folder = to or work / "export"
    training = Training(work / "prepared", work, settings, start_model())
    training.state.mix_in_start(settings.export.start)
    run(training.state, folder)
    write_json(folder / "training.json", training.summary())
    scores = training.held_out_scores()
    write_json(folder / "calibration.json", calibration(scores, settings.seed))


@app.command()
def evaluate(
    sets: Annotated[Path, typer.Argument(help="Folder of the retrieval sets.")],
    work: Work = WORK,
    *,
    model: Annotated[Path | None, typer.Option(help="Folder; None is WORK/export.")] = None,
    questions: Annotated[int, typer.Option(help="Sample of each set; 0 is all.")] = 0,
    backend: Annotated[str, typer.Option(help="What computes the model.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Data type of the arithmetic.")] = "auto",
    quick: Annotated[bool, typer.Option(help="Leave out what reads BM25's best.")] = False,
) -> None:
    """Measure a model on sets that nothing was trained on, against the packaged one."""
    from rerank_plugins import Reranker  # noqa: PLC0415
    from training.evaluate import evaluate as run  # noqa: PLC0415
    from training.export import write_json  # noqa: PLC0415

    folder = model or work / "export"
    settings: dict[str, Any] = {"backend": backend, "dtype": dtype}
    rerankers = {"packaged": Reranker(**settings), "trained": Reranker(folder, **settings)}
    found = run(rerankers, sets, work / "kept", questions, quick=quick)
    write_json(folder / "evaluation.json", found)


@app.command()
def card(
    work: Work = WORK,
    *,
    model: Annotated[Path | None, typer.Option(help="Folder; None is WORK/export.")] = None,
) -> None:
    """Write the model card from the figures beside the weights."""
    from training.card import write_card  # noqa: PLC0415

    write_card(model or work / "export")


if __name__ == "__main__":
    app()
