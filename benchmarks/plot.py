"""Draws docs/assets/bench.svg: how many times faster a training step is than torch's, from the JSON alone.

The same JSON gives the same bytes. Both memory settings stand beside each other, as most of what a fresh large tensor
costs is page faults, and huge pages on both sides take that difference away.
"""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from batchnorm.bench.conditions import lines
from batchnorm.bench.contenders import Problem
from batchnorm.bench.race import Spread
from benchmarks.measure import Results, title
from benchmarks.shapes import LARGE, layouts
from benchmarks.targets import METRICS

INK, MUTED, LINE = "#1c2330", "#5b6575", "#dde2ea"
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "batchnorm",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "ytick.left": False,
}
# script, memory, label, colour
BARS = (
    ("steps", "default", "default memory", "#1f5fd0"),
    ("recycled", "huge pages", "both sides with huge pages", "#f0a04b"),
)
LAYOUT_NAMES = {"contiguous": "", "channels_last": " channels last"}


def draw(results: Mapping[str, Results]) -> str:
    """The plot as SVG text."""
    cases = [(shape, layout) for shape in LARGE for layout in layouts(shape)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.42 * len(cases) + 1.9), layout="constrained")
        figure.set_facecolor("white")
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for axes, residual in zip(panels, (False, True), strict=True):
            axes.set_title("BN + add + ReLU" if residual else "BN + ReLU")
            _panel(axes, results, [Problem(s, "relu", residual, layout) for s, layout in cases])
        panels[0].set_yticks(range(len(cases)), [f"{_size(s)}{LAYOUT_NAMES[layout]}" for s, layout in cases])
        panels[0].invert_yaxis()
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False
        )
        figure.supxlabel(
            "\n".join(
                ["time of a training step in eager torch / in batchnorm, float32", *_conditions(results)]
            ),
            fontsize=7.5,
            color=MUTED,
        )
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()


def _panel(axes: Axes, results: Mapping[str, Results], problems: list[Problem]) -> None:
    height = 0.8 / len(BARS)
    for number, (script, memory, label, colour) in enumerate(BARS):
        found = [_ratio(results, script, title(problem, memory)) for problem in problems]
        at = [row + (number - (len(BARS) - 1) / 2) * height for row in range(len(problems))]
        widths = [0.0 if ratio is None else ratio.median for ratio in found]
        axes.barh(at, widths, height * 0.92, label=label, color=colour, zorder=2)
        for y, ratio in zip(at, found, strict=True):
            if ratio is None:
                axes.text(0.1, y, "not measured", va="center", fontsize=6.5, color=MUTED)
                continue
            axes.plot([ratio.low, ratio.high], [y, y], color=INK, linewidth=1, zorder=3)
            end = max(ratio.high, ratio.median)
            axes.text(end, y, f" {ratio.median:.1f}", va="center", fontsize=7.5, zorder=4)
    axes.axvline(1.0, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=LINE, linewidth=0.8)


def _ratio(results: Mapping[str, Results], script: str, case: str) -> Spread | None:
    race = results[script].race(case) if script in results else None
    return None if race is None else METRICS["T"].of(race)


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _conditions(results: Mapping[str, Results]) -> list[str]:
    found = results["steps"].conditions.get("default") if "steps" in results else None
    note = "bars: medians over rounds taken in turn; lines: quartiles; dashed: as fast as torch"
    return [note] if found is None else [note, *lines(found)]
