"""A race as rows of text, for a terminal. The numbers and their meaning are in `race.py`."""

from collections.abc import Sequence

from batchnorm.bench.race import Race, Spread

__all__ = ["HEADINGS", "duration", "factor", "rows"]

HEADINGS = ("code", "step", "forward", "backward", "first / this")


def duration(seconds: float) -> str:
    """A time with three digits and the unit that suits it.

    Examples:
        >>> duration(0.01234), duration(45.6e-6)
        ('12.3 ms', '45.6 µs')
    """
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size * 0.9995:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds * 1e6)} µs"


def factor(ratio: Spread) -> str:
    """A ratio with its quartiles.

    Examples:
        >>> factor(Spread(2.5, 2.4, 2.61))
        '2.50 (2.40–2.61)'
    """
    return f"{_three_digits(ratio.median)} ({_three_digits(ratio.low)}–{_three_digits(ratio.high)})"


def rows(result: Race) -> list[Sequence[str]]:
    """One row a contender, under `HEADINGS`; the last cell is how many times faster it is than the first."""
    first = result.names[0]
    table: list[Sequence[str]] = []
    for name in result.names:
        # A contender without a backward spends nothing there but the clock's own time.
        parts = [result.seconds(name, part).median for part in ("step", "forward", "backward")]
        if parts[2] < 1e-3 * parts[0] or parts[2] < 1e-6:
            parts = parts[:2]
        cells = [duration(seconds) for seconds in parts] + [""] * (3 - len(parts))
        ratio = factor(result.ratio(first, name)) if name != first else ""
        table.append((name, *cells, ratio))
    return table


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
