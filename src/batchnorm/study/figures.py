"""The drawings of a report, as SVG text: the same runs give the same bytes.

Colours leave here as CSS variables, so that a page decides them (light or dark); `standalone` puts fixed ones
in.
"""

import io
import math
import re
import statistics
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from batchnorm.study import measure
from batchnorm.study.experiment import Arm, Experiment
from batchnorm.study.records import Point, Run, Runs
from batchnorm.study.train import CHANCE
from batchnorm.study.verdict import Bound, Verdict, Word

# stand-ins that no drawing would choose: replaced by what the page or the standalone file wants
INK, MUTED, LINE, BASELINE, TREATMENT = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BASELINE: "var(--baseline)",
    TREATMENT: "var(--treatment)",
}
LIGHT = {INK: "#1c2330", MUTED: "#5b6575", LINE: "#dde2ea", BASELINE: "#c2570c", TREATMENT: "#1f5fd0"}

STYLE: dict[str, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "batchnorm",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "round",
    "path.simplify": False,
}
SIZE = (5.8, 3.7)


def draw(name: str, experiment: Experiment, runs: Runs) -> str:
    """Return the drawing called `name`, for a page with the CSS variables."""
    with _canvas(SIZE, 1) as (figure, (axes,)):
        DRAWINGS[name](axes, experiment, runs)
        return _svg(figure, VARIABLES)


def standalone(names: Sequence[str], experiment: Experiment, runs: Runs) -> str:
    """Return several drawings side by side as one SVG file in light colours on white."""
    with _canvas((SIZE[0] * len(names), SIZE[1]), len(names)) as (figure, all_axes):
        figure.set_facecolor("white")
        for name, axes in zip(names, all_axes, strict=True):
            DRAWINGS[name](axes, experiment, runs)
        return _svg(figure, LIGHT, whole_file=True)


def accuracy_by_step(axes: Axes, experiment: Experiment, runs: Runs) -> None:
    """Test accuracy against steps: a thin line a seed, a thick one for the mean."""
    _accuracy(axes, experiment, runs, lambda point: point.step)
    axes.set_title("Test accuracy against steps")
    axes.set_xlabel("optimizer steps")


def accuracy_by_time(axes: Axes, experiment: Experiment, runs: Runs) -> None:
    """Test accuracy against the seconds of training that a run took."""
    _accuracy(axes, experiment, runs, lambda point: point.seconds)
    axes.set_title("Test accuracy against process time")
    axes.set_xlabel("seconds of process time in training steps, one thread")


def accuracy_by_rate(axes: Axes, experiment: Experiment, runs: Runs) -> None:
    """Validation accuracy against the learning rate: the sweep that chose the rates, a dot a seed."""
    axes.set_xscale("log")
    for arm, colour in _arms(experiment):
        found = runs.select(experiment.name, "sweep", arm.name)
        axes.scatter(
            [run.job.rate for run in found],
            [run.validation for run in found],
            s=14,
            color=colour,
            alpha=0.45,
            lw=0,
        )
        means = measure.mean_validation(experiment, runs, arm.name)
        axes.plot(list(means), list(means.values()), color=colour, lw=2.4)
        chosen = measure.chosen_rate(experiment, runs, arm.name)
        axes.plot([chosen], [means[chosen]], "o", ms=9, mfc="none", mec=colour, mew=1.8)
    _label_sweep(axes, experiment, runs)
    axes.axhline(measure.TRAINS, color=MUTED, lw=0.9, ls=(0, (2, 3)))
    axes.text(experiment.rates[0], measure.TRAINS + 0.015, "trains", color=MUTED, fontsize=8.5)
    low, high = (measure.typical_highest_rate(experiment, runs, arm.name) for arm in experiment.arms)
    if low and high and high > low:
        arrow = {"arrowstyle": "->", "color": INK, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", xy=(high, 0.94), xytext=(low, 0.94), arrowprops=arrow)
        text = f"highest rate that trains: {high / low:.2g}×"
        axes.text(math.sqrt(low * high), 0.955, text, ha="center", fontweight="bold")
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.xaxis.set_major_locator(FixedLocator(list(experiment.rates)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.set_title("Accuracy against learning rate")
    axes.set_xlabel("learning rate (circle: the rate that was chosen)")
    axes.set_ylabel("validation accuracy")


def ratio_by_target(axes: Axes, experiment: Experiment, runs: Runs) -> None:
    """How many times fewer steps, against the accuracy asked for: as far as every run of both arms gets."""
    seeds = sorted({run.job.seed for run in runs.select(experiment.name, "confirm")})
    axes.set_title("The lead in steps depends on the accuracy asked for")
    axes.set_xlabel("target: test accuracy")
    axes.set_ylabel("steps without / steps with")
    targets = [target / 100 for target in range(30, 96)]
    table = {
        target: [
            measure.arrival_ratio(experiment, runs, seed, target, lambda point: point.step) for seed in seeds
        ]
        for target in targets
    }
    reached = [target for target in targets if all(effect.bound is Bound.EXACT for effect in table[target])]
    axes.axhline(1, color=INK, lw=1)
    if not seeds or not reached:
        text = "no target was reached by every run of both arms"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)
        axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.set_ylim(0.5, 2)
        return
    for index, _ in enumerate(seeds):
        axes.plot(reached, [table[t][index].value for t in reached], color=TREATMENT, lw=0.9, alpha=0.45)
    means = [math.exp(statistics.fmean(math.log(effect.value) for effect in table[t])) for t in reached]
    axes.plot(reached, means, color=TREATMENT, lw=2.4)
    axes.set_yscale("log")
    highest = max(effect.value for t in reached for effect in table[t])
    lowest = min(effect.value for t in reached for effect in table[t])
    ticks = [t for t in (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32) if lowest / 2.1 <= t <= highest * 2.1]
    axes.set_ylim(min(lowest, 0.9) / 1.1, max(highest, 2) * 1.15)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(_times))
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.text(
        reached[0],
        1.02,
        "above this line batch norm needs fewer steps",
        color=MUTED,
        fontsize=8.5,
        va="bottom",
    )
    if reached[-1] < targets[-1]:
        note = f"beyond {reached[-1]:.0%} not every run arrives"
        axes.text(0.99, 0.02, note, transform=axes.transAxes, color=MUTED, fontsize=8.5, ha="right")


def forest(rows: Sequence[tuple[str, str, float, Verdict]]) -> str:
    """Return a line for each verdict on a ratio: seeds, interval, tick at the smallest effect worth claiming.

    Args:
        rows: claim, experiment, smallest effect, verdict; all of them ratios.
    """
    with _canvas((9.2, 0.42 * len(rows) + 0.9), 1) as (figure, (axes,)):
        axes.set_xscale("log")
        axes.axvline(1, color=INK, lw=1)
        for index, (_, _, smallest, verdict) in enumerate(rows):
            _forest_row(axes, len(rows) - 1 - index, smallest, verdict)
        axes.set_yticks(range(len(rows)), [f"{claim}, {where}" for claim, where, _, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False)
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(FixedLocator([2.0**k for k in range(-3, 9) if low <= 2.0**k <= high]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_times))
        return _svg(figure, VARIABLES)


def _forest_row(axes: Axes, height: int, smallest: float, verdict: Verdict) -> None:
    colour = {Word.SUPPORTED: TREATMENT, Word.NOT_SUPPORTED: BASELINE, Word.INCONCLUSIVE: MUTED}[verdict.word]
    axes.plot([smallest, smallest], [height - 0.28, height + 0.28], color=INK, lw=1.6)
    if verdict.interval is not None:
        interval = [verdict.interval.low, verdict.interval.high]
        axes.plot(interval, [height, height], color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
    for effect in verdict.effects:
        marker = {Bound.EXACT: "o", Bound.AT_LEAST: ">", Bound.AT_MOST: "<", Bound.UNKNOWN: "x"}[effect.bound]
        axes.plot([effect.value], [height], marker, color=colour, ms=4.5, alpha=0.8)


def _accuracy(axes: Axes, experiment: Experiment, runs: Runs, place: Callable[[Point], float]) -> None:
    ends: list[tuple[float, str, str]] = []
    for arm, colour in _arms(experiment):
        found = runs.select(experiment.name, "confirm", arm.name)
        for run in found:
            curve = run.curve
            axes.plot(
                [place(p) for p in curve], [p.accuracy for p in curve], color=colour, lw=0.9, alpha=0.45
            )
        if mean := _mean_curve(found, place):
            axes.plot([x for x, _ in mean], [y for _, y in mean], color=colour, lw=2.6)
            ends.append((statistics.fmean(run.curve[-1].accuracy for run in found), arm.label, colour))
            _mark_arrival(axes, experiment, found, place, colour)
    axes.axhline(experiment.target, color=MUTED, lw=0.9, ls=(0, (2, 3)))
    axes.text(
        0.995, experiment.target - 0.012, f"target {experiment.target:.0%}",
        transform=axes.get_yaxis_transform(), ha="right", va="top", color=MUTED, fontsize=8.5,
    )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.set_ylabel("test accuracy")
    # labels in the empty lower right, in the order of the curves' ends
    for index, (end, label, colour) in enumerate(sorted(ends)):
        text = f"{label}: {end:.1%} at the end"
        axes.text(
            0.98,
            0.2 + 0.085 * index,
            text,
            transform=axes.transAxes,
            ha="right",
            color=colour,
            fontweight="bold",
        )


def _mark_arrival(
    axes: Axes, experiment: Experiment, runs: Sequence[Run], place: Callable[[Point], float], colour: str
) -> None:
    """Drop a line from the target to the axis where the runs arrived on average (geometric), if all of them did."""
    arrivals = [measure.arrival(run.curve, experiment.target) for run in runs]
    reached = [place(point) for point in arrivals if point is not None]
    if len(reached) == len(arrivals):
        mean = statistics.geometric_mean(reached)
        axes.plot([mean, mean], [0, experiment.target], color=colour, lw=1.1, ls=(0, (1, 2)))
        axes.plot([mean], [experiment.target], "o", color=colour, ms=6)
        axes.text(mean, 0.02, f" {mean:.3g}", color=colour, fontweight="bold")


def _mean_curve(runs: Sequence[Run], place: Callable[[Point], float]) -> list[tuple[float, float]]:
    """Return the mean over runs, evaluation by evaluation; a run that ended early stays at its last value."""
    length = max((len(run.curve) for run in runs), default=0)
    columns = [[run.curve[min(index, len(run.curve) - 1)] for run in runs] for index in range(length)]
    return [
        (statistics.fmean(map(place, c)), statistics.fmean(point.accuracy for point in c)) for c in columns
    ]


def _label_sweep(axes: Axes, experiment: Experiment, runs: Runs) -> None:
    axes.axhline(CHANCE, color=LINE, lw=0.9)
    axes.text(experiment.rates[0], CHANCE - 0.02, "chance", color=MUTED, fontsize=8.5, va="top")
    for index, (arm, colour) in enumerate(_arms(experiment)):
        height = 0.3 + 0.085 * index
        axes.text(0.02, height, arm.label, transform=axes.transAxes, color=colour, fontweight="bold")


def _times(value: float, _: int) -> str:
    return f"{value:g}×"


def _plain(value: float, _: int) -> str:
    return f"{value:g}"


def _arms(experiment: Experiment) -> Iterator[tuple[Arm, str]]:
    yield experiment.baseline, BASELINE
    yield experiment.treatment, TREATMENT


@contextmanager
def _canvas(size: tuple[float, float], columns: int) -> Generator[tuple[Figure, list[Axes]]]:
    with mpl.rc_context(cast("Any", {**mpl.rcParamsDefault, **STYLE})):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, [figure.add_subplot(1, columns, index + 1) for index in range(columns)]


def _svg(figure: Figure, colours: Mapping[str, str], *, whole_file: bool = False) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    for stand_in, colour in colours.items():
        text = text.replace(stand_in, colour)
    # the reader's own sans-serif; matplotlib wrote the name of the one that it measured with
    text = text.replace("'DejaVu Sans', sans-serif", "system-ui, 'DejaVu Sans', sans-serif")
    if whole_file:
        return text
    text = text[text.index("<svg") :]
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        r"\1",
        re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1),
        count=1,
    )


DRAWINGS: Mapping[str, Callable[[Axes, Experiment, Runs], None]] = {
    "accuracy_by_step": accuracy_by_step,
    "accuracy_by_time": accuracy_by_time,
    "accuracy_by_rate": accuracy_by_rate,
    "ratio_by_target": ratio_by_target,
}
