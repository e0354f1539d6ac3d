"""The experiments, in the order of the report. A new one is a file in `experiments/` and a line here."""

from batchnorm.study.experiment import Experiment
from batchnorm.study.experiments.default_init import DEFAULT_INIT
from batchnorm.study.experiments.he_init import HE_INIT

EXPERIMENTS: tuple[Experiment, ...] = (HE_INIT, DEFAULT_INIT)


def get(name: str) -> Experiment:
    """Return the experiment called `name`."""
    return next(experiment for experiment in EXPERIMENTS if experiment.name == name)
