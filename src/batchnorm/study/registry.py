"""The experiments, in the order of the report. A new one is a file in `experiments/` and a line here."""

from collections.abc import Sequence

from batchnorm.study.errors import StudyError
from batchnorm.study.experiment import Experiment
from batchnorm.study.experiments.default_init import DEFAULT_INIT
from batchnorm.study.experiments.he_init import HE_INIT

EXPERIMENTS: tuple[Experiment, ...] = (HE_INIT, DEFAULT_INIT)


def get(name: str) -> Experiment:
    """Return the experiment called `name`."""
    return next(experiment for experiment in EXPERIMENTS if experiment.name == name)


def choose(names: Sequence[str]) -> tuple[Experiment, ...]:
    """Return the experiments called `names` in the order of the report; all of them for no name.

    Raises:
        StudyError: a name is not one of them.
    """
    known = [experiment.name for experiment in EXPERIMENTS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise StudyError(f"--only must name one of {', '.join(known)}; got {', '.join(unknown)}.")
    return tuple(experiment for experiment in EXPERIMENTS if experiment.name in (names or known))
