"""`batchnorm study`: train with and without batch normalization, judge, and write a report."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from batchnorm.cli import display


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
    only: Annotated[
        list[str] | None,
        typer.Option(help="Name of an experiment to run; may be repeated.", show_default="all"),
    ] = None,
) -> None:
    """Train a small network with and without batch normalization on real images, and judge what it changes.

    Takes a few minutes on two cores. May be stopped at any moment with Ctrl-C: the same command goes on from
    there.
    """
    # here and not above: `batchnorm --help` need not wait for torch and matplotlib
    from batchnorm.study import conditions, registry, report, runner
    from batchnorm.study.experiment import Plan

    console = Console(highlight=False)
    plan = Plan.of(registry.choose(only or ()), steps=steps, seeds=seeds, device=device)
    try:
        with display.progress(console) as progress:
            runner.run_plan(
                plan,
                out,
                data_directory=data,
                workers=workers or conditions.available_cores(),
                progress=progress,
            )
    except KeyboardInterrupt:
        records = out / "records.jsonl"
        console.print(
            f"Stopped. Finished runs are kept in {records}; the same command goes on from there.",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    display.verdicts(console, report.rows(report.write(out)))
    console.print(f"Report:  {out / 'report.html'}", soft_wrap=True)
    console.print(f"Records: {out / 'records.jsonl'}", soft_wrap=True)
