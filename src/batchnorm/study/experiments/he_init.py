"""The fair baseline: a plain network with the initialisation made for it, against batch normalization."""

from functools import partial

from batchnorm.study.experiment import Arm, Experiment
from batchnorm.study.experiments.accuracy import CLAIMS, FIGURES, RATES, TARGET, headline
from batchnorm.study.experiments.networks import convolutional
from batchnorm.study.train import train_run

HE_INIT = Experiment(
    name="he-init",
    title="A network with a good start (He initialisation)",
    short="He initialisation",
    condition="6-convolution network, He initialisation for both arms",
    summary=(
        "Both networks start from weights drawn as He et al. (2015) derived for ReLU networks, and each "
        "trains at its own best learning rate. This is the fair comparison: the network without batch "
        "normalization has the start that it needs."
    ),
    baseline=Arm("none", "without", partial(convolutional, batch_norm=False, init="he")),
    treatment=Arm("batch_norm", "with batch norm", partial(convolutional, batch_norm=True, init="he")),
    run=train_run,
    headline=headline,
    rates=RATES,
    target=TARGET,
    # without batch normalization the highest rate that trains differs by a factor of 8 between seeds
    sweep_seeds=5,
    claims=CLAIMS,
    figures=FIGURES,
    limits=(
        "One budget of a few passes over the images: whether a lead lasts with more training is not measured here.",
        "The ratio of steps depends on the target; the figure of the ratio shows how.",
    ),
)
