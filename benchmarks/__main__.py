"""Benchmarks: ``python -m benchmarks speed|quality|load|robustness DATA`` and ``tables``.

DATA is a folder of retrieval sets in BEIR layout. Results are rows of one schema in
``benchmarks/results``; ``tables`` renders them into the documentation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.common import RESULTS, ROOT, Row, describe_environment, save_results

WORK: Final = ROOT / "build" / "benchmarks"
LOAD_SET: Final = "squad-dev"
"""The set whose texts the load and robustness benchmarks use."""

SPEED_SUITES: Final = ("peers", "adapters", "growth", "pair-cost", "backends", "decoder")
QUALITY_SUITES: Final = (
    *("quality", "calibration", "fusion", "precision", "cascade"),
    *("deadline", "long-documents"),
)
LOAD_SUITES: Final = (
    *("throughput", "latency", "loop-lag", "equality", "adapters"),
    *("one-process", "servers", "ray", "batch"),
)
ROBUSTNESS_SUITES: Final = ("golden", "faults", "fuzz", "soak")


def run_speed(options: argparse.Namespace) -> int:
    """Measure speed."""
    from benchmarks.speed import backends, costs, run  # noqa: PLC0415  (imports torch)

    costs_of: dict[str, Callable[..., list[Row]]] = {
        "adapters": costs.measure_adapters,
        "growth": costs.measure_growth,
        "pair-cost": costs.measure_pair_cost,
    }
    for suite in options.suites:
        if suite == "peers":
            cells = run.choose_cells(options.cells)
            for rows, settings in run.measure_speed(
                options.data,
                cells,
                options.systems,
                device=options.device,
                environments=options.environments,
                slow=options.slow,
                threads=options.threads,
                minutes=options.minutes,
                work=options.work,
            ):
                _save([rows], options, **settings)
        elif suite in costs_of:
            threads = options.threads or run.CPU_THREADS
            quick = options.cells == ["quick"]
            _save([costs_of[suite](options.data, threads, quick=quick)], options, threads=threads)
        elif suite == "backends":
            _save([backends.measure_backends()], options)
        else:
            _save([backends.measure_decoder()], options)
    return 0


def run_quality(options: argparse.Namespace) -> int:
    """Measure quality."""
    from benchmarks import quality, scores, tradeoffs  # noqa: PLC0415  (imports torch)
    from rerank_plugins.engine.registry import close_engines  # noqa: PLC0415

    measures: dict[str, Callable[..., Iterator[list[Row]]]] = {
        "calibration": scores.measure_calibration,
        "fusion": scores.measure_fusion,
        "precision": scores.measure_precision,
        "cascade": tradeoffs.measure_cascade,
        "deadline": tradeoffs.measure_deadline,
        "long-documents": tradeoffs.measure_long_documents,
    }
    sample = {} if options.queries is None else {"queries": options.queries}
    for suite in options.suites:
        close_engines()  # a suite must not reuse the scores that another suite cached
        if suite == "quality":
            _save(quality.measure_quality(options.data, options.work or WORK, **sample), options)
        else:
            _save(measures[suite](options.data, **sample), options, **sample)
    return 0


def run_load(options: argparse.Namespace) -> int:
    """Measure concurrent load."""
    from benchmarks import cluster, load, servers  # noqa: PLC0415  (imports torch)
    from rerank_plugins.engine.registry import close_engines  # noqa: PLC0415

    measures: dict[str, Callable[..., list[Row]]] = {
        **load.MEASURES,
        "servers": servers.measure_servers,
        "ray": cluster.measure_ray,
        "batch": cluster.measure_batch,
    }
    for suite in options.suites:
        close_engines()
        sizes = load.QUICK.get(suite, {}) if options.quick else {}
        rows = measures[suite](options.data / LOAD_SET, **sizes)
        _save([rows], options, quick=options.quick, **sizes)
    return 0


def run_robustness(options: argparse.Namespace) -> int:
    """Measure the effects of faults and malformed inputs; fail if a fuzz target fails."""
    from benchmarks import golden, robustness, soak  # noqa: PLC0415  (imports torch)

    status = 0
    for suite in options.suites:
        if suite == "golden":
            _save(golden.measure_golden(), options)
        elif suite == "faults":
            _save(robustness.measure_faults(options.data / LOAD_SET), options)
        elif suite == "fuzz":
            rows, status = robustness.fuzz(options.minutes)
            _save([rows], options, minutes=options.minutes)
        else:
            rows = soak.measure_soak(options.minutes, options.cores)
            _save([rows], options, minutes=options.minutes, cores=options.cores)
    return status


def run_tables(_options: argparse.Namespace) -> int:
    """Render the tables."""
    from benchmarks import tables  # noqa: PLC0415  (the other commands need none)

    tables.main()
    return 0


def _save(parts: Iterable[Sequence[Row]], options: argparse.Namespace, **settings: Any) -> None:  # noqa: ANN401
    """Store and print rows as they are measured."""
    for rows in parts:
        save_results(rows, describe_environment(**settings), options.output)
        for row in rows:
            bounds = "" if row.low is None else f" ({row.low:.4g} to {row.high:.4g})"
            names = ", ".join(filter(None, (row.suite, row.dataset, row.system, row.metric)))
            sys.stdout.write(f"{names}: {row.value:.4g}{bounds}\n")
        sys.stdout.flush()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        name: str,
        run: Callable[[argparse.Namespace], int],
        suites: Sequence[str],
        default: Sequence[str],
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("data", type=Path, metavar="DATA", help="folder of retrieval sets")
        command.add_argument(
            "--suites",
            nargs="+",
            choices=suites,
            default=list(default),
            metavar="SUITE",
            help=", ".join(suites),
        )
        command.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
        return command

    speed = add("speed", run_speed, SPEED_SUITES, ["peers"])
    speed.add_argument(
        "--cells", nargs="+", default=["main"], help="main, all, quick, or names as mini/nq/100"
    )
    speed.add_argument(
        "--systems", nargs="+", default=[], help="only these systems, such as ours or flag"
    )
    speed.add_argument("--environments", type=Path, help="folder of the peers' environments")
    speed.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    speed.add_argument("--threads", type=int, help="threads of each system; 2 on a CPU, else all")
    speed.add_argument("--minutes", type=float, default=25.0, help="no cell starts after this time")
    speed.add_argument("--slow", action="store_true", help="also time bfloat16 by emulation")
    speed.add_argument("--work", type=Path, help="folder that stores models and rankings")

    quality = add("quality", run_quality, QUALITY_SUITES, QUALITY_SUITES)
    quality.add_argument("--queries", type=int, help="sample of each set; by default per suite")
    quality.add_argument("--work", type=Path, help="folder that stores pair scores and times")

    load = add("load", run_load, LOAD_SUITES, LOAD_SUITES[:6])
    load.add_argument(
        "--quick", action="store_true", help="small sizes that only show that everything runs"
    )

    robustness = add("robustness", run_robustness, ROBUSTNESS_SUITES, ROBUSTNESS_SUITES)
    robustness.add_argument("--minutes", type=float, default=60.0, help="of fuzz and of soak")
    robustness.add_argument("--cores", type=float, default=0.5, help="kept busy by the soak")

    tables = commands.add_parser("tables", help=run_tables.__doc__)
    tables.set_defaults(run=run_tables)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command."""
    options = make_parser().parse_args(arguments)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
