"""The tables, from the JSON alone: for the terminal, and as the generated part of docs/benchmarks.md."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from batchnorm.bench.conditions import lines
from batchnorm.bench.race import Race, Spread
from batchnorm.bench.table import duration, factor
from benchmarks.measure import RESULTS, Results
from benchmarks.targets import METRICS, Judged, Verdict

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PLOT = Path(__file__).parents[1] / "docs" / "assets" / "bench.svg"
BEGIN, END = "<!-- results: written by `make bench` -->", "<!-- end of results -->"
HEADINGS = ("verdict", "case", "measure", "target", "found", "torch / torch")
COLOURS = {
    Verdict.MET: "green",
    Verdict.MISSED: "bold red",
    Verdict.NOT_MEASURED: "yellow",
    Verdict.DOES_NOT_APPLY: "yellow",
}


def load(folder: Path = RESULTS) -> dict[str, Results]:
    """The results of every script that has run."""
    return {path.stem: Results.read(path) for path in sorted(folder.glob("*.json"))}


def cells(judged: Judged) -> tuple[str, ...]:
    target = judged.target
    verdict = judged.verdict.value + (f" ({judged.remark})" if judged.remark else "")
    return (verdict, target.case, target.metric, target.bound, _number(judged.value), _number(judged.noise))


def _number(value: Spread | None) -> str:
    return "" if value is None else factor(value)


def summary(judged: Sequence[Judged]) -> str:
    counts = Counter(one.verdict for one in judged)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])


def noise(results: Mapping[str, Results]) -> str:
    """How far torch was from itself in all races: what any other ratio may be off by."""
    found = [
        (abs(ratio.median - 1), name)
        for result in results.values()
        for name in result.cases
        if (race := result.race(name)) is not None
        and (ratio := METRICS["noise"].of(race) or METRICS["noise, compiled"].of(race)) is not None
    ]
    if not found:
        return "torch against itself: not measured"
    within, (worst, name) = sum(off <= 0.1 for off, _ in found), max(found)
    return (
        f"torch against itself: {within} of {len(found)} rows within ±10 %, the worst {worst:+.0%} ({name})"
    )


def print_targets(console: Console, results: Mapping[str, Results], judged: Sequence[Judged]) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for one in judged:
        row = cells(one)
        table.add_row(f"[{COLOURS[one.verdict]}]{row[0]}[/]", *row[1:])
    console.print(table)
    console.print(f"\ntargets: {summary(judged)}", markup=False)
    console.print(noise(results), markup=False)


def write_page(results: Mapping[str, Results], judged: Sequence[Judged], page: Path = PAGE) -> None:
    """Replace the generated part of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{markdown(results, judged)}\n{END}{after}", encoding="utf-8")


def markdown(results: Mapping[str, Results], judged: Sequence[Judged]) -> str:
    parts = [
        f"## Targets: {summary(judged)}\n",
        f"{noise(results)}.\n",
        _markdown_table(HEADINGS, [cells(one) for one in judged]),
    ]
    for result in results.values():
        parts.append(f"## {result.script}\n")
        for memory, found in result.conditions.items():
            parts.append(f"Memory {memory}:\n\n" + "\n".join(f"- {line}" for line in lines(found)) + "\n")
        rows = [_row(name, race) for name in result.cases if (race := result.race(name)) is not None]
        parts.append(_markdown_table(("case", "the first's step", "the first / the others"), rows))
        if result.skipped:
            parts.append(
                "Not measured:\n\n" + "\n".join(f"- {n}: {why}" for n, why in result.skipped.items()) + "\n"
            )
    return "\n".join(parts)


def _row(name: str, race: Race) -> tuple[str, str, str]:
    first, *others = race.names
    ratios = "; ".join(f"{other} {factor(race.ratio(first, other))}" for other in others)
    return name, f"{first} {duration(race.seconds(first).median)}", ratios


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    return "\n".join([line(headings), line(["---"] * len(headings)), *(line(row) for row in rows)]) + "\n"
