"""The commands put together, and how a user's error looks: one message and an exit code, no traceback."""

import sys

import typer
from rich.console import Console

from batchnorm import __version__
from batchnorm.cli import bench, explain, study
from batchnorm.core.errors import BatchNormError

app: typer.Typer = typer.Typer(
    name="batchnorm",
    help="Batch normalization that is right, fast, and explains itself.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.command("study")(study.command)
app.command("explain")(explain.command)
app.command("bench")(bench.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"batchnorm {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
    ),
) -> None:
    """Batch normalization that is right, fast, and explains itself."""


def run() -> None:
    """Run the command line."""
    try:
        app()
    except BatchNormError as error:
        Console(stderr=True, highlight=False).print(
            f"[bold red]batchnorm:[/] {_plain(error)}", soft_wrap=True
        )
        sys.exit(2)


def _plain(error: BaseException) -> str:
    from rich.markup import escape

    return escape(str(error))
