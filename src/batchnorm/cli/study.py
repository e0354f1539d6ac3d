"""`batchnorm study`: train with and without batch normalization, judge, and write a report."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from batchnorm.cli.display import print_verdicts, progress_display
from batchnorm.study import registry, report, runner
from batchnorm.study.conditions import available_cores
from batchnorm.study.experiment import Plan


def command(
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Judged seeds of each experiment; a verdict needs 3.", show_default="5"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of every run.", show_default="300")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Directory with the four files of the full Fashion-MNIST.",
            show_default="the embedded images",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for report.html and records.jsonl.")] = Path(
        "batchnorm-study"
    ),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of one thread each.", show_default="cores")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, ...")] = "cpu",
) -> None:
    """Train a small network with and without batch normalization on real images, and judge what it changes.

    Takes a few minutes on two cores. May be stopped at any moment with Ctrl-C: the same command goes on from
    there.
    """
    console = Console(highlight=False)
    plan = Plan(registry.EXPERIMENTS, steps=steps, seeds=seeds, device=device)
    workers = workers or available_cores()
    try:
        with progress_display(console) as progress:
            runner.run_plan(plan, out, data_directory=data, workers=workers, progress=progress)
    except KeyboardInterrupt:
        console.print(
            f"Stopped. Finished runs are kept in {out / 'records.jsonl'}; the same command goes on."
        )
        sys.exit(130)
    study = report.write(out)
    print_verdicts(console, report.rows(study))
    console.print(f"Report:  {out / 'report.html'}", soft_wrap=True)
    console.print(f"Records: {out / 'records.jsonl'}", soft_wrap=True)
