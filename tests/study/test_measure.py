import dataclasses

import pytest

from batchnorm.study import measure
from batchnorm.study.experiment import FIRST_SWEEP_SEED, Job
from batchnorm.study.records import Point, Run, Runs
from batchnorm.study.registry import get
from batchnorm.study.verdict import Bound

EXPERIMENT = dataclasses.replace(get("he-init"), rates=(0.1, 0.2, 0.4, 0.8), target=0.75)


def curve(*accuracies):
    return tuple(Point(10 * step, 0.5 * step, value, 1.0) for step, value in enumerate(accuracies, start=1))


def judged(none, batch_norm):
    return Runs(
        Run(Job("he-init", "confirm", arm, 0.1, 0), curve(*values), values[-1], 1.0, False)
        for arm, values in (("none", none), ("batch_norm", batch_norm))
    )


def sweep(none, batch_norm):
    return Runs(
        Run(Job("he-init", "sweep", arm, rate, FIRST_SWEEP_SEED), (), value, 1.0, False)
        for arm, values in (("none", none), ("batch_norm", batch_norm))
        for rate, value in zip(EXPERIMENT.rates, values, strict=True)
    )


def test_arrival_takes_two_evaluations():
    assert measure.arrival(curve(0.1, 0.8, 0.6, 0.76, 0.78), 0.75).step == 50
    assert measure.arrival(curve(0.1, 0.8, 0.6), 0.75) is None
    assert measure.arrival(curve(0.9), 0.75) is None


@pytest.mark.parametrize(
    ("none", "batch_norm", "value", "bound"),
    [
        ((0.1, 0.2, 0.8, 0.8), (0.8, 0.8, 0.8, 0.8), 2.0, Bound.EXACT),
        ((0.1, 0.2, 0.3, 0.4), (0.8, 0.8, 0.8, 0.8), 2.0, Bound.AT_LEAST),
        ((0.8, 0.8, 0.8, 0.8), (0.1, 0.2, 0.3, 0.4), 0.5, Bound.AT_MOST),
        ((0.1, 0.2, 0.3, 0.4), (0.1, 0.2, 0.3, 0.4), 1.0, Bound.UNKNOWN),
    ],
)
def test_a_run_that_never_arrives_makes_the_ratio_a_bound(none, batch_norm, value, bound):
    effect = measure.fewer_steps(EXPERIMENT, judged(none, batch_norm), 0)
    assert (effect.value, effect.bound) == (value, bound)
    assert measure.less_time(EXPERIMENT, judged(none, batch_norm), 0).bound is bound


def test_accuracy_is_in_points_of_the_last_evaluation():
    effect = measure.more_accurate(EXPERIMENT, judged((0.9, 0.80), (0.1, 0.84)), 0)
    assert effect.value == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("none", "batch_norm", "value", "bound"),
    [
        ((0.8, 0.1, 0.1, 0.1), (0.8, 0.8, 0.8, 0.1), 4.0, Bound.EXACT),
        ((0.8, 0.1, 0.1, 0.1), (0.8, 0.8, 0.8, 0.8), 8.0, Bound.AT_LEAST),
        ((0.1, 0.1, 0.1, 0.1), (0.8, 0.8, 0.1, 0.1), 2.0, Bound.AT_LEAST),
        ((0.8, 0.8, 0.1, 0.1), (0.1, 0.1, 0.1, 0.1), 0.5, Bound.AT_MOST),
        ((0.8, 0.8, 0.8, 0.8), (0.8, 0.8, 0.8, 0.1), 0.5, Bound.AT_MOST),
        ((0.8, 0.8, 0.8, 0.8), (0.8, 0.8, 0.8, 0.8), 1.0, Bound.UNKNOWN),
        ((0.1, 0.1, 0.1, 0.1), (0.1, 0.1, 0.1, 0.1), 1.0, Bound.UNKNOWN),
    ],
)
def test_the_edges_of_the_grid_make_the_ratio_of_rates_a_bound(none, batch_norm, value, bound):
    effect = measure.higher_rate(EXPERIMENT, sweep(none, batch_norm), FIRST_SWEEP_SEED)
    assert (effect.value, effect.bound) == (pytest.approx(value), bound)


def test_the_lower_of_two_equally_good_rates_is_chosen():
    runs = sweep((0.1, 0.8, 0.8, 0.2), (0.1, 0.2, 0.3, 0.9))
    assert measure.chosen_rate(EXPERIMENT, runs, "none") == 0.2
    assert measure.chosen_rate(EXPERIMENT, runs, "batch_norm") == 0.8
