"""A whole study's records without training: made-up curves, so that a report takes no minutes."""

import random

import pytest

from batchnorm.study import conditions, data
from batchnorm.study.experiment import Plan
from batchnorm.study.records import Point, Run, Store
from batchnorm.study.registry import EXPERIMENTS


def made_up(job, steps):
    """A run that learns faster with batch norm, and not at all at rates that are too high or from a bad start."""
    rng = random.Random(repr(job))
    helped = job.arm == "batch_norm"
    trains = job.rate <= (1.6 if helped else 0.1) and (helped or job.experiment == "he-init")
    best, speed = ((0.85, 30) if helped else (0.80, 65)) if trains else (0.1, 50)
    speed *= rng.uniform(0.9, 1.1)
    curve = [
        Point(
            step,
            step * (0.009 if helped else 0.007),
            best - (best - 0.1) * 2 ** (-step / speed),
            rng.random(),
        )
        for step in range(10, steps + 1, 10)
    ]
    if not trains and job.rate > 3:
        curve = [Point(10, 0.1, 0.1, None)]
    noisy = best + rng.uniform(-0.01, 0.01)
    curve[-1] = Point(curve[-1].step, curve[-1].seconds, noisy, curve[-1].loss)
    judged = job.stage == "confirm"
    return Run(job, tuple(curve) if judged else (), noisy, curve[-1].seconds, curve[-1].loss is None)


@pytest.fixture(scope="session")
def study_directory(tmp_path_factory):
    """A directory with the made-up records of a whole study."""
    out = tmp_path_factory.mktemp("study")
    plan = Plan(EXPERIMENTS)
    store = Store(out / "records.jsonl")
    header = conditions.header(plan, data.load())
    header["environment"].update(processor="A <fast> processor", torch="0.0")
    store.open(header)
    store.start({**conditions.session(2), "started": "2000-01-01T00:00:00+00:00", "cores": 2})
    judged = [job for e in EXPERIMENTS for job in plan.confirm(e, (0.1, 0.2))]
    for job in (*plan.sweep(), *judged):
        run = made_up(job, 300)
        if job.stage == "sweep":
            # the rates that are judged must be the ones that the sweep finds best
            best = {"none": 0.1, "batch_norm": 0.2}[job.arm]
            run = Run(job, (), run.validation + 0.05 * (job.rate == best), run.seconds, run.diverged)
        store.add(run)
    store.close()
    return out
