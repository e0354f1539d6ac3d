"""`batchnorm explain`: which code a batch norm layer runs on for a shape, on this machine, and why."""

from typing import Annotated

import typer
from rich.console import Console


def command(
    shape: Annotated[
        list[int] | None,
        typer.Argument(help="The input's shape, channels second: 2 to 5 sizes.", show_default="32 64 56 56"),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the input: float32, bfloat16, float16 or float64.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="Where the input is: cpu, cuda, ...")] = "cpu",
    activation: Annotated[str | None, typer.Option(help="Fused after the layer: relu, silu, ...")] = None,
    evaluation: Annotated[
        bool, typer.Option("--eval", help="In evaluation mode instead of training.")
    ] = False,
) -> None:
    """Say which code a batch norm layer runs on for an input of this shape on this machine, and why."""
    # here and not above: `batchnorm --help` need not wait for torch
    from batchnorm.cli import describe

    text = describe.layer(
        tuple(shape or (32, 64, 56, 56)), dtype, device, activation, training=not evaluation
    )
    Console(highlight=False, markup=False).print(text, soft_wrap=True)
