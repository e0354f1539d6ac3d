"""`batchnorm bench`: this library against torch on this machine, for the user's own shapes."""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from batchnorm.bench import conditions, contenders, table
from batchnorm.bench.contenders import Problem
from batchnorm.bench.race import Race, race
from batchnorm.core.errors import OptionError

DEFAULT_SHAPES = ("64,64,56,56", "64,256,14,14", "32,512,7,7")


def command(
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Input's shape, channels second; give it again for more.",
            show_default=" ".join(DEFAULT_SHAPES),
        ),
    ] = None,
    layout: Annotated[str, typer.Option(help="contiguous or channels_last.")] = "contiguous",
    dtype: Annotated[
        str, typer.Option(help="Of the input: float32, bfloat16, float16 or float64.")
    ] = "float32",
    activation: Annotated[str, typer.Option(help="After the layer: relu, silu, ..., or none.")] = "relu",
    residual: Annotated[bool, typer.Option("--residual", help="Add a residual first.")] = False,
    evaluation: Annotated[bool, typer.Option("--eval", help="Evaluation, not a training step.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of both.", show_default="all")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Add torch.compile.")] = False,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time spent on each shape, about.")] = 3.0,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write every repeat, with the conditions, to this file.")
    ] = None,
) -> None:
    """Time a batch norm step of this library and of torch on this machine, in turn, in one process.

    Both are compared before they are timed. "torch again" is torch's own code a second time: as far as its
    ratio is from 1, so far may the others be off.
    """
    console = Console(highlight=False)
    after = None if activation == "none" else activation
    problems = [
        Problem(sizes(text), after, residual, layout, dtype, not evaluation)
        for text in shape or DEFAULT_SHAPES
    ]
    kinds = [contenders.TORCH, contenders.AGAIN, contenders.OURS] + [contenders.COMPILED] * compiled
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        found = conditions.conditions()
        results = [_measure(console, problem, kinds, seconds) for problem in problems]
    finally:
        torch.set_num_threads(before)
    console.print("\n".join(conditions.lines(found)), style="dim", markup=False, soft_wrap=True)
    if output is not None:
        output.write_text(json.dumps({"conditions": found, "results": results}, indent=1), encoding="utf-8")


def _measure(console: Console, problem: Problem, kinds: list[str], seconds: float) -> dict[str, Any]:
    result = race(contenders.contenders(problem, kinds), seconds=seconds, tolerance=problem.tolerance)
    _print(console, str(problem), result)
    return {"problem": str(problem), "forward": result.forward, "step": result.step}


def _print(console: Console, title: str, result: Race) -> None:
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in table.HEADINGS:
        shown.add_column(heading, justify="left" if heading == "code" else "right")
    for row in table.rows(result):
        shown.add_row(*row)
    console.print(f"\n{title}", style="bold", markup=False)
    console.print(shown)
    console.print(
        f"medians of {len(next(iter(result.step.values())))} rounds; in brackets the quartiles\n", style="dim"
    )


def sizes(text: str) -> tuple[int, ...]:
    """Return the shape that was written, such as "64,64,56,56"."""
    try:
        return tuple(int(size) for size in text.replace("x", ",").split(","))
    except ValueError:
        raise OptionError(
            f"--shape must be sizes with commas between, such as 64,64,56,56; got {text!r}."
        ) from None
