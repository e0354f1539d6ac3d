"""The networks that the experiments train."""

from typing import Literal

import torch
from torch import nn

from batchnorm import BatchNorm2d
from batchnorm.study.data import CLASSES

Init = Literal["he", "default"]
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
