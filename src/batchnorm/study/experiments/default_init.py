"""The control: the same networks as most people start them, with the weights that torch draws by default."""

from functools import partial

from batchnorm.study.experiment import Arm, Experiment
from batchnorm.study.experiments.accuracy import CLAIMS, FIGURES, RATES, TARGET, headline
from batchnorm.study.experiments.networks import convolutional
from batchnorm.study.train import train_run

DEFAULT_INIT = Experiment(
    name="default-init",
    title="The same network as most people start it (torch's default initialisation)",
    short="torch's default",
    condition="6-convolution network, torch's default initialisation for both arms",
    summary=(
        "Nothing changes but the initial weights: torch's default makes the signal shrink from layer to "
        "layer, and batch normalization undoes that. A large effect here says as much about the "
        "initialisation as about batch normalization; read it beside the experiment with He initialisation."
    ),
    baseline=Arm("none", "without", partial(convolutional, batch_norm=False, init="default")),
    treatment=Arm("batch_norm", "with batch norm", partial(convolutional, batch_norm=True, init="default")),
    run=train_run,
    headline=headline,
    rates=RATES,
    target=TARGET,
    claims=CLAIMS,
    figures=FIGURES,
    limits=(
        "How much of an effect is owed to the initial weights is the difference to the other experiment.",
        "One budget of a few passes over the images: without batch normalization the network may start to learn "
        "later; that is not measured here.",
    ),
)
