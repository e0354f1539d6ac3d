"""From records to `report.html`: a pure function. No clock, no training and no network here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from batchnorm.study import figures, measure, records, registry
from batchnorm.study.experiment import Claim, Experiment
from batchnorm.study.records import Study
from batchnorm.study.verdict import Bound, Greater, Verdict

ALT = {
    "accuracy_by_step": "Test accuracy against optimizer steps, one thin line a seed, mean thick",
    "accuracy_by_time": "Test accuracy against process time, one thin line a seed, mean thick",
    "accuracy_by_rate": "Validation accuracy against learning rate, one dot a seed, mean as a line",
    "ratio_by_target": "Ratio of steps to a target accuracy, against the target",
}


@dataclass(frozen=True)
class Row:
    """One judged claim, ready to print."""

    experiment: Experiment
    claim: Claim
    verdict: Verdict

    @property
    def effect(self) -> str:
        """The estimate with its interval, or with the bound that it is."""
        if self.verdict.estimate is None or self.verdict.bound is Bound.UNKNOWN:
            return "not measurable"
        if self.verdict.interval is None:
            number = f"{self.verdict.bound.value} {self.number(self.verdict.estimate)}"
            return number.strip() + self.claim.unit
        low, high = self.verdict.interval.low, self.verdict.interval.high
        estimate = f"{self.number(self.verdict.estimate)}{self.claim.unit}"
        return f"{estimate} [{self.number(low)}, {self.number(high)}]"

    @property
    def per_seed(self) -> str:
        """Every seed's effect."""
        return ", ".join(f"{e.bound.value} {self.number(e.value)}".strip() for e in self.verdict.effects)

    @property
    def smallest(self) -> str:
        """The declared smallest effect or band."""
        rule = self.claim.rule
        return f"{rule.smallest:g}{self.claim.unit}" if isinstance(rule, Greater) else rule.describe()

    def number(self, value: float) -> str:
        """Return `value` with the digits that it deserves, points with their sign."""
        if self.claim.unit != "×":
            return f"{value:+.1f}"
        return f"{value:.0f}" if value >= 20 else f"{value:.1f}" if value >= 3 else f"{value:.2f}"


def rows(study: Study) -> list[Row]:
    """Return every claim with its verdict; one claim under several conditions stands on neighbouring rows."""
    found = [
        Row(experiment, claim, measure.judge(experiment, claim, study.runs))
        for experiment in experiments(study)
        for claim in experiment.claims
    ]
    order = list(dict.fromkeys(row.claim.name for row in found))
    return sorted(found, key=lambda row: order.index(row.claim.name))


def experiments(study: Study) -> list[Experiment]:
    """Return the experiments of a study, with the numbers that it was run with."""
    declared: Mapping[str, Any] = study.header["settings"]["experiments"]
    numbers = ("sweep_seeds", "seeds", "steps", "evaluate_every", "batch_size", "momentum", "target")
    return [
        replace(registry.get(name), rates=tuple(values["rates"]), **{key: values[key] for key in numbers})
        for name, values in declared.items()
    ]


def render(study: Study) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    judged = rows(study)
    sections = [_section(study, experiment, judged) for experiment in experiments(study)]
    ratios = [
        (row.claim.label, row.experiment.short, row.claim.rule.smallest, row.verdict)
        for row in sorted(
            judged, key=lambda row: [c.name for c in row.experiment.claims].index(row.claim.name)
        )
        if isinstance(row.claim.rule, Greater) and row.claim.rule.ratio
    ]
    return environment.get_template("report.html.j2").render(
        sections=sections,
        rows=judged,
        forest=Markup(figures.forest(ratios)) if ratios else None,
        settings=study.header["settings"],
        environment=study.header["environment"],
        sessions=study.sessions,
        count=len(study.runs),
        trains=f"{measure.TRAINS:.0%}",
    )


def write(out: Path) -> Study:
    """Write `out/report.html` from `out/records.jsonl` and return what the records say."""
    study = records.read(out / "records.jsonl")
    (out / "report.html").write_text(render(study), encoding="utf-8")
    return study


def readme_figure(study: Study) -> str:
    """Return the README's figure, a whole SVG file: the first experiment against steps and against rates."""
    return figures.standalone(("accuracy_by_step", "accuracy_by_rate"), experiments(study)[0], study.runs)


def conditions(study: Study, experiment: Experiment) -> str:
    """Return one paragraph: under which conditions the numbers of an experiment hold."""
    rates = ", ".join(
        f"{measure.chosen_rate(experiment, study.runs, arm.name):g} {arm.label}" for arm in experiment.arms
    )
    environment, settings = study.header["environment"], study.header["settings"]
    workers = sorted({session["workers"] for session in study.sessions})
    return (
        f"{settings['data']}. {experiment.condition[0].upper()}{experiment.condition[1:]}; SGD with momentum "
        f"{experiment.momentum:g}, batch {experiment.batch_size}, {experiment.steps} steps, rate falling "
        f"along a half cosine from {rates} (each arm's best of {len(experiment.rates)} on validation images, "
        f"{experiment.sweep_seeds} seeds). {experiment.seeds} fresh seeds, both arms with the same initial "
        f"weights and order of images. torch {environment['torch']}, "
        f"{environment['accelerator'] or environment['processor']}, "
        f"{' or '.join(map(str, workers))} worker processes with one thread each."
    )


def _section(study: Study, experiment: Experiment, judged: list[Row]) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "rows": [row for row in judged if row.experiment.name == experiment.name],
        "headline": experiment.headline(experiment, study.runs),
        "conditions": conditions(study, experiment),
        "figures": [
            (ALT[name], Markup(figures.draw(name, experiment, study.runs))) for name in experiment.figures
        ],
        "arms": [_arm(study, experiment, arm.name) for arm in experiment.arms],
    }


def _arm(study: Study, experiment: Experiment, name: str) -> dict[str, Any]:
    judged = study.runs.select(experiment.name, "confirm", name)
    chosen = measure.chosen_rate(experiment, study.runs, name)
    trained = [
        measure.highest_rate_that_trains(experiment, study.runs, name, seed)
        for seed in sorted({run.job.seed for run in study.runs.select(experiment.name, "sweep", name)})
    ]
    steps = sum(run.curve[-1].step for run in judged)
    return {
        "label": experiment.arm(name).label,
        "rate": f"{chosen:g}",
        "edge": chosen in (experiment.rates[0], experiment.rates[-1]),
        "final": ", ".join(f"{100 * run.curve[-1].accuracy:.1f}" for run in judged),
        "arrivals": ", ".join(_arrival(run.curve, experiment.target) for run in judged),
        "trains": ", ".join("none" if rate is None else f"{rate:g}" for rate in trained),
        "milliseconds": f"{1000 * sum(run.seconds for run in judged) / steps:.1f}" if steps else "",
        "diverged": sum(run.diverged for run in study.runs.select(experiment.name, "sweep", name) + judged),
    }


def _arrival(curve: tuple[records.Point, ...], target: float) -> str:
    end = measure.arrival(curve, target)
    return f"> {curve[-1].step}" if end is None else str(end.step)
