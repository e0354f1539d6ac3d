"""How the commands show progress and tables on a terminal, and in a log where there is no terminal."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from batchnorm.study.report import Row

COLOURS = {"supported": "green", "not supported": "red", "inconclusive": "yellow"}


@contextmanager
def progress(console: Console) -> Generator[Callable[[int, int], None]]:
    """Yield a function of (steps done, steps in all) that shows both, and the time left."""
    if not console.is_terminal:
        yield _log_lines(console)
        return
    columns = (
        TextColumn("training"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # runs finish a few seconds apart: a long window keeps the estimate steady
    with Progress(*columns, console=console, speed_estimate_period=60) as bar:
        task = bar.add_task("training", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show


def _log_lines(console: Console, every: float = 0.1) -> Callable[[int, int], None]:
    """Return a function that prints a line at each tenth of the work."""
    start = time.monotonic()
    first: int | None = None
    printed = 0.0

    def show(done: int, total: int) -> None:
        nonlocal first, printed
        share = done / total
        if first is None:
            first = done
            kept = f", {share:.0%} kept from an earlier start" if done else ""
            console.print(f"training: {total:,} steps{kept}", soft_wrap=True)
            printed = share
        elif share >= printed + every or done == total:
            elapsed = time.monotonic() - start
            left = elapsed * (total - done) / max(done - first, 1)
            console.print(
                f"training: {share:.0%}, {elapsed:.0f} s so far, about {left:.0f} s left", soft_wrap=True
            )
            printed = share

    return show


def verdicts(console: Console, rows: Sequence["Row"]) -> None:
    """Print one table an experiment, under the condition that its verdicts hold for."""
    for condition in dict.fromkeys(row.experiment.condition for row in rows):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in ("with batch norm", "measured [95 % interval]", "at least", "verdict"):
            table.add_column(escape(heading), overflow="fold")
        for row in rows:
            if row.experiment.condition == condition:
                word = row.verdict.word.value
                table.add_row(
                    row.claim.label, escape(row.effect), row.smallest, f"[{COLOURS[word]}]{word}[/]"
                )
        console.print(f"\n[bold]{escape(condition[0].upper() + condition[1:])}[/]")
        console.print(table)
    console.print()
