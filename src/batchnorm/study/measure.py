"""From finished runs to effects: which rate was chosen, when a target was reached, what a paired seed shows.

How effects become a verdict is in `verdict.py`.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence

from batchnorm.study.experiment import Claim, Experiment, Stage
from batchnorm.study.records import Point, Run, Runs
from batchnorm.study.verdict import Bound, Effect, Verdict

# a rate at which at least this share of the validation images is right in the end counts as one that trains
TRAINS = 0.6


def chosen_rate(experiment: Experiment, runs: Runs, arm: str) -> float:
    """Return the rate with the best mean validation accuracy in the sweep; the lower one of equals."""
    means = mean_validation(experiment, runs, arm)
    return max(experiment.rates, key=lambda rate: (means[rate], -rate))


def mean_validation(experiment: Experiment, runs: Runs, arm: str) -> dict[float, float]:
    """Return the mean validation accuracy at each rate of the sweep."""
    found = runs.select(experiment.name, "sweep", arm)
    return {
        rate: statistics.fmean(run.validation for run in found if run.job.rate == rate)
        for rate in experiment.rates
    }


def arrival(curve: Sequence[Point], target: float) -> Point | None:
    """Return the first evaluation at which the mean with the one before reaches `target`; None if none does.

    Two evaluations, so that one lucky spike of a noisy curve does not count as having arrived.
    """
    for before, now in itertools.pairwise(curve):
        if (before.accuracy + now.accuracy) / 2 >= target:
            return now
    return None


def pair(experiment: Experiment, runs: Runs, seed: int) -> tuple[Run, Run]:
    """Return the judged runs of one seed: baseline, treatment."""
    found = {run.job.arm: run for run in runs.select(experiment.name, "confirm") if run.job.seed == seed}
    return found[experiment.baseline.name], found[experiment.treatment.name]


def fewer_steps(experiment: Experiment, runs: Runs, seed: int) -> Effect:
    """Return the baseline's steps to the target over the treatment's."""
    return arrival_ratio(experiment, runs, seed, experiment.target, lambda point: float(point.step))


def less_time(experiment: Experiment, runs: Runs, seed: int) -> Effect:
    """Return the baseline's seconds of training to the target over the treatment's."""
    return arrival_ratio(experiment, runs, seed, experiment.target, lambda point: point.seconds)


def arrival_ratio(
    experiment: Experiment, runs: Runs, seed: int, target: float, cost: Callable[[Point], float]
) -> Effect:
    """Return the baseline's cost of reaching `target` over the treatment's.

    A run that never arrives enters with its whole budget, and the ratio becomes a bound.
    """
    baseline, treatment = pair(experiment, runs, seed)
    ends = [arrival(run.curve, target) for run in (baseline, treatment)]
    costs = [cost(end or run.curve[-1]) for end, run in zip(ends, (baseline, treatment), strict=True)]
    bounds = {
        (True, True): Bound.EXACT,
        (False, True): Bound.AT_LEAST,
        (True, False): Bound.AT_MOST,
        (False, False): Bound.UNKNOWN,
    }
    return Effect(seed, costs[0] / costs[1], bounds[ends[0] is not None, ends[1] is not None])


def more_accurate(experiment: Experiment, runs: Runs, seed: int) -> Effect:
    """Return the treatment's final test accuracy minus the baseline's, in points (hundredths)."""
    baseline, treatment = pair(experiment, runs, seed)
    return Effect(seed, 100 * (treatment.curve[-1].accuracy - baseline.curve[-1].accuracy))


def higher_rate(experiment: Experiment, runs: Runs, seed: int) -> Effect:
    """Return the highest rate that trains with the treatment over the highest without it.

    If the baseline trains at no rate, its highest is below the grid; if the treatment trains at the last
    rate, its highest may be above it: both leave a lower bound.
    """
    baseline = highest_rate_that_trains(experiment, runs, experiment.baseline.name, seed)
    treatment = highest_rate_that_trains(experiment, runs, experiment.treatment.name, seed)
    below, above = experiment.rates[0], experiment.rates[-1]
    if treatment is None:
        # nothing of the treatment's range was seen
        return Effect(seed, below / (baseline or below), Bound.AT_MOST if baseline else Bound.UNKNOWN)
    if baseline is None:
        return Effect(seed, treatment / below, Bound.AT_LEAST)
    if baseline == above:
        return Effect(seed, treatment / above, Bound.UNKNOWN if treatment == above else Bound.AT_MOST)
    return Effect(seed, treatment / baseline, Bound.AT_LEAST if treatment == above else Bound.EXACT)


def highest_rate_that_trains(experiment: Experiment, runs: Runs, arm: str, seed: int) -> float | None:
    """Return the highest rate of the grid at which this seed trained; None if it trained at none."""
    found = runs.select(experiment.name, "sweep", arm)
    rates = [run.job.rate for run in found if run.job.seed == seed and run.validation >= TRAINS]
    return max(rates, default=None)


def typical_highest_rate(experiment: Experiment, runs: Runs, arm: str) -> float | None:
    """Return the geometric mean of the seeds' highest rates that train; None if a seed trained at none."""
    rates = [
        highest_rate_that_trains(experiment, runs, arm, seed) for seed in seeds_of(experiment, "sweep", runs)
    ]
    found = [rate for rate in rates if rate is not None]
    return statistics.geometric_mean(found) if len(found) == len(rates) else None


def seeds_of(experiment: Experiment, stage: Stage, runs: Runs) -> list[int]:
    """Return the seeds that both arms have in a stage."""
    seeds = [
        {run.job.seed for run in runs.select(experiment.name, stage, arm.name)} for arm in experiment.arms
    ]
    return sorted(seeds[0] & seeds[1])


def judge(experiment: Experiment, claim: Claim, runs: Runs) -> Verdict:
    """Return the verdict on one claim."""
    return claim.rule.judge(
        [claim.measure(experiment, runs, seed) for seed in seeds_of(experiment, claim.stage, runs)]
    )
