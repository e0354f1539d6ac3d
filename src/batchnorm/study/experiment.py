"""What an experiment declares; all of it is data. Training is in `train.py`, measuring in `measure.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from torch import nn

from batchnorm.study.verdict import Effect, Rule

if TYPE_CHECKING:
    from batchnorm.study.data import Parts
    from batchnorm.study.records import Run, Runs

Stage = Literal["sweep", "confirm"]


@dataclass(frozen=True)
class Arm:
    """One side of the comparison.

    Attributes:
        name: key in the records.
        label: what the report calls it.
        build: returns a fresh network for a seed; arms of one experiment start from the same weights.
    """

    name: str
    label: str
    build: Callable[[int], nn.Module]


@dataclass(frozen=True)
class Claim:
    """One sentence that a run can support or not.

    Attributes:
        name: key, unique in the experiment.
        label: the claim in three or four words, for tables.
        sentence: what is claimed, for a reader.
        measure: the effect of one paired seed, from the finished runs.
        rule: how the effects become a verdict.
        unit: printed after an effect: "×" or " points".
        stage: which runs it is measured on.
    """

    name: str
    label: str
    sentence: str
    measure: "Callable[[Experiment, Runs, int], Effect]"
    rule: Rule
    unit: str
    stage: Stage = "confirm"


@dataclass(frozen=True)
class Experiment:
    """A whole study: what is trained, how its rates are chosen, what is claimed and how that is judged.

    Attributes:
        name: key in the records and on the command line.
        title: heading in the report.
        short: the condition in two or three words, for figures.
        condition: the condition under which the verdicts hold; printed with each of them.
        summary: two or three sentences for the reader.
        baseline: the arm without the treatment.
        treatment: the arm with it.
        run: does one job on the data's parts for a number of steps.
        headline: one or two sentences of measured numbers, for the top of the report.
        rates: the grid of learning rates, the same for both arms.
        limits: what the reader must not conclude.
        target: accuracy that a run has to reach in the claims about speed.
        sweep_seeds: how many seeds choose the rate; they are not used again.
        seeds: how many fresh seeds are judged.
        steps: optimizer steps of every run.
        evaluate_every: steps between two evaluations of a judged run.
        batch_size: images in one step.
        momentum: of SGD.
        claims: what is judged.
        figures: names of drawings in `figures.py`, in order.
    """

    name: str
    title: str
    short: str
    condition: str
    summary: str
    baseline: Arm
    treatment: Arm
    run: "Callable[[Experiment, Job, Parts, int], Run]"
    headline: "Callable[[Experiment, Runs], str]"
    rates: tuple[float, ...]
    claims: tuple[Claim, ...]
    figures: tuple[str, ...]
    limits: tuple[str, ...]
    target: float
    sweep_seeds: int = 3
    seeds: int = 5
    steps: int = 300
    evaluate_every: int = 10
    batch_size: int = 64
    momentum: float = 0.9

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """Baseline and treatment."""
        return self.baseline, self.treatment

    def arm(self, name: str) -> Arm:
        """Return the arm called `name`."""
        return next(arm for arm in self.arms if arm.name == name)


# sweep and judged runs never share a seed: the best of a sweep is partly luck, a fresh seed is not
FIRST_SWEEP_SEED = 2000


@dataclass(frozen=True, order=True)
class Job:
    """One training run."""

    experiment: str
    stage: Stage
    arm: str
    rate: float
    seed: int


@dataclass(frozen=True)
class Plan:
    """The experiments of one study, with the numbers that the user has set, and where they run."""

    experiments: tuple[Experiment, ...]
    device: str = "cpu"

    @classmethod
    def of(
        cls,
        experiments: Sequence[Experiment],
        *,
        steps: int | None = None,
        seeds: int | None = None,
        device: str = "cpu",
    ) -> "Plan":
        """Return the plan of `experiments` with other steps and judged seeds, where these are given."""
        given = {key: value for key, value in (("steps", steps), ("seeds", seeds)) if value is not None}
        return cls(tuple(replace(experiment, **given) for experiment in experiments), device)

    def steps(self, job: Job) -> int:
        """Return the number of steps of one job."""
        return next(experiment.steps for experiment in self.experiments if experiment.name == job.experiment)

    def total_steps(self) -> int:
        """Return the number of steps of all jobs."""
        return sum(e.steps * len(e.arms) * (len(e.rates) * e.sweep_seeds + e.seeds) for e in self.experiments)

    def sweep(self) -> list[Job]:
        """Return the runs that choose the rates."""
        return [
            Job(experiment.name, "sweep", arm.name, rate, FIRST_SWEEP_SEED + index)
            for experiment in self.experiments
            for index in range(experiment.sweep_seeds)
            for arm in experiment.arms
            for rate in experiment.rates
        ]

    def confirm(self, experiment: Experiment, rates: Sequence[float]) -> list[Job]:
        """Return the judged runs of one experiment, at the chosen rate of each arm."""
        return [
            Job(experiment.name, "confirm", arm.name, rate, seed)
            for seed in range(experiment.seeds)
            for arm, rate in zip(experiment.arms, rates, strict=True)
        ]
