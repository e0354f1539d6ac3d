import itertools

import pytest

from batchnorm.study.errors import StudyError
from batchnorm.study.experiment import FIRST_SWEEP_SEED, Plan
from batchnorm.study.figures import DRAWINGS
from batchnorm.study.registry import EXPERIMENTS, choose
from batchnorm.study.verdict import MINIMUM_CENSORED_SEEDS, MINIMUM_SEEDS, Greater


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
def test_a_declaration_can_be_judged_and_drawn(experiment):
    assert experiment.seeds >= MINIMUM_CENSORED_SEEDS
    assert experiment.sweep_seeds >= MINIMUM_SEEDS
    assert set(experiment.figures) <= set(DRAWINGS)
    assert list(experiment.rates) == sorted(experiment.rates)
    assert len({claim.name for claim in experiment.claims}) == len(experiment.claims)
    assert len({arm.name for arm in experiment.arms}) == 2


def test_the_declared_rules_are_literal():
    # a change of what is worth claiming is a visible line here
    rules = {
        (e.name, c.name): (c.rule.smallest, c.rule.ratio, c.rule.resolution)
        for e in EXPERIMENTS
        for c in e.claims
    }
    each = {
        "steps": (2.0, True, 1.0),
        "time": (1.5, True, 1.0),
        "accuracy": (1.0, False, 1.0),
        "rates": (2.0, True, 2.0),
    }
    assert all(b == 2 * a for e in EXPERIMENTS for a, b in itertools.pairwise(e.rates))
    expected = {(name, claim): rule for name in ("he-init", "default-init") for claim, rule in each.items()}
    assert rules.items() >= expected.items()
    assert all(isinstance(claim.rule, Greater) for e in EXPERIMENTS for claim in e.claims)


def test_the_seeds_that_are_judged_chose_no_rate():
    plan = Plan.of(EXPERIMENTS, seeds=500)
    judged = {job.seed for e in plan.experiments for job in plan.confirm(e, [0.1, 0.2])}
    assert judged == set(range(500))
    assert not judged & {job.seed for job in plan.sweep()}
    assert max(judged) < FIRST_SWEEP_SEED


def test_both_arms_search_the_same_rates_with_the_same_seeds():
    jobs = Plan(EXPERIMENTS).sweep()
    for experiment in EXPERIMENTS:
        grids = [
            {
                (job.rate, job.seed)
                for job in jobs
                if job.experiment == experiment.name and job.arm == arm.name
            }
            for arm in experiment.arms
        ]
        assert grids[0] == grids[1]
        assert len(grids[0]) == len(experiment.rates) * experiment.sweep_seeds
    assert len(set(jobs)) == len(jobs)


def test_names_choose_experiments():
    assert choose(()) == EXPERIMENTS
    for names in itertools.permutations([e.name for e in EXPERIMENTS]):
        assert choose(names) == EXPERIMENTS
    assert [e.name for e in choose(["default-init"])] == ["default-init"]
    with pytest.raises(StudyError, match="--only must name one of he-init, default-init; got nothing"):
        choose(["nothing"])


def test_the_users_numbers_replace_the_declared_ones():
    plan = Plan.of(EXPERIMENTS, steps=7, seeds=4)
    assert {(e.steps, e.seeds) for e in plan.experiments} == {(7, 4)}
    assert Plan.of(EXPERIMENTS).experiments == EXPERIMENTS
    jobs = [*plan.sweep(), *(job for e in plan.experiments for job in plan.confirm(e, (0.1, 0.2)))]
    assert plan.total_steps() == sum(map(plan.steps, jobs)) == 7 * len(jobs)
