"""How the commands show progress and tables on a terminal, and in a log where there is no terminal."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from batchnorm.study.report import Row
from batchnorm.study.verdict import Word

COLOURS = {Word.SUPPORTED: "green", Word.NOT_SUPPORTED: "red", Word.INCONCLUSIVE: "yellow"}


@contextmanager
def progress_display(console: Console) -> Iterator[Callable[[int, int], None]]:
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
            console.print(f"training: {share:.0%}, {elapsed:.0f} s so far, about {left:.0f} s left", soft_wrap=True)
            printed = share

    return show


def verdict_table(rows: Sequence[Row]) -> Table:
    """Return the verdicts as a table."""
    table = Table(title="Verdicts", title_justify="left", title_style="bold", show_edge=False, pad_edge=False)
    for heading in ("claim", "condition", "measured \\[95 % interval]", "at least", "verdict"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        word = row.verdict.word
        table.add_row(
            row.claim.sentence,
            row.experiment.condition,
            row.effect.replace("[", "\\["),
            row.smallest,
            f"[{COLOURS[word]}]{word.value}[/]",
        )
    return table
