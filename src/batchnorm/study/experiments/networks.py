"""The networks that the experiments train, and the claims that several of them make."""

from typing import Literal

import torch
from torch import nn

from batchnorm import BatchNorm2d
from batchnorm.study import measure
from batchnorm.study.data import CLASSES
from batchnorm.study.experiment import Claim
from batchnorm.study.verdict import Greater

Init = Literal["he", "default"]
TARGET = 0.75
WIDTHS = (8, 8, 16, 16, 32, 32)


def convolutional(seed: int, *, batch_norm: bool, init: Init) -> nn.Module:
    """Return the network of both arms: six 3×3 convolutions, each with ReLU, then a mean over positions.

    The first convolution of each width halves the image: 28×28 → 14×14 → 7×7 → 4×4. With `batch_norm` the
    bias of a convolution is left out, because the layer after it would subtract it again.

    Args:
        seed: of the initial weights; both arms draw the same ones.
        batch_norm: put our batch normalization with its fused ReLU where the other arm has ReLU alone.
        init: "he" is normal with variance 2 / fan-in and no bias; "default" is what torch does if nobody
            asks.
    """
    layers: list[nn.Module] = []
    channels = 1
    for index, width in enumerate(WIDTHS):
        # a seed for each layer: the draws of one arm must not shift those of the other
        torch.manual_seed(1000 * seed + index)
        stride = 2 if index % 2 == 0 else 1
        convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=not batch_norm)
        if init == "he":
            # torch has drawn a bias in one arm by now
            torch.manual_seed(1000 * seed + index)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        layers += [convolution, BatchNorm2d(width, activation="relu") if batch_norm else nn.ReLU()]
        channels = width
    torch.manual_seed(1000 * seed + len(WIDTHS))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*layers)


# the smallest effects were fixed before the first run of this code: see docs/studies/first.md for where they
# come from
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
