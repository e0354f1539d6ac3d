"""What the experiments share that train a network with and without batch normalization and compare its accuracy."""

import statistics

from batchnorm.study import measure
from batchnorm.study.experiment import Claim, Experiment
from batchnorm.study.records import Runs
from batchnorm.study.verdict import Greater

TARGET = 0.75
# where the smallest effects come from: docs/studies/first.md
CLAIMS = (
    Claim(
        name="steps",
        label=f"fewer steps to {TARGET:.0%}",
        sentence=f"Batch normalization reaches {TARGET:.0%} test accuracy in fewer steps.",
        measure=measure.fewer_steps,
        rule=Greater(2.0, ratio=True),
        unit="×",
    ),
    Claim(
        name="time",
        label=f"less process time to {TARGET:.0%}",
        sentence=f"Batch normalization reaches {TARGET:.0%} test accuracy in less process time.",
        measure=measure.less_time,
        rule=Greater(1.5, ratio=True),
        unit="×",
    ),
    Claim(
        name="accuracy",
        label="higher final accuracy",
        sentence="Batch normalization has the higher test accuracy at the end of the budget.",
        measure=measure.more_accurate,
        rule=Greater(1.0),
        unit=" points",
    ),
    Claim(
        name="rates",
        label="higher rates that train",
        sentence="Batch normalization still trains at higher learning rates.",
        measure=measure.higher_rate,
        # neighbouring rates of the grid differ by a factor of two
        rule=Greater(2.0, ratio=True, resolution=2.0),
        unit="×",
        stage="sweep",
    ),
)
RATES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
FIGURES = ("accuracy_by_step", "accuracy_by_time", "accuracy_by_rate", "ratio_by_target")


def headline(experiment: Experiment, runs: Runs) -> str:
    """Return what a reader should take away, in two sentences of measured numbers."""
    without, with_ = (
        statistics.fmean(run.curve[-1].accuracy for run in runs.select(experiment.name, "confirm", arm.name))
        for arm in experiment.arms
    )
    text = (
        f"After {experiment.steps} steps the network gets {with_:.1%} of the test images right with batch norm and "
        f"{without:.1%} without"
    )
    highest = [measure.typical_highest_rate(experiment, runs, arm.name) for arm in experiment.arms]
    rates = [
        "at no learning rate of the grid on every seed"
        if rate is None
        else f"at learning rates up to {rate:.2g}"
        for rate in highest
    ]
    return f"{text}. It trains {rates[1]} with, and {rates[0]} without."
