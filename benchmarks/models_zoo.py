"""Three networks, small and plain, that take their batch norm layers from outside.

`norm(channels)` is followed by a ReLU, `norm(channels, None)` by nothing; `norm.add` adds a residual before the ReLU.
The structure is the papers'; widths and depths are named in each function.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import batchnorm

Norm = Callable[..., nn.Module]


class TorchNorm(nn.Module):
    """torch's layer and its activation as torch's own models write them: in place."""

    def __init__(self, channels: int, activation: str | None = "relu") -> None:
        super().__init__()
        self.layer = nn.BatchNorm2d(channels)
        self.activation = {"relu": nn.ReLU, "relu6": nn.ReLU6, None: lambda inplace: nn.Identity()}[
            activation
        ](inplace=True)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.layer(x)
        if residual is not None:
            y += residual
        return self.activation(y)


def our_norm(channels: int, activation: str | None = "relu") -> nn.Module:
    return batchnorm.BatchNorm2d(channels, activation=activation)


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, outputs, 3, stride), norm(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs, 3), norm(outputs)
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), norm(outputs, None))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.norm1(self.conv1(x)))
        return self.norm2(y, self.shortcut(x))


def resnet18(norm: Norm, classes: int = 10) -> nn.Module:
    """He et al. 2016, in its form for 32 px images: a 3x3 stem, four stages of two blocks."""
    layers: list[nn.Module] = [conv(3, 64, 3), norm(64)]
    inputs = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            layers.append(BasicBlock(inputs, width, 2 if stage and not block else 1, norm))
            inputs = width
    return nn.Sequential(*layers, head(inputs, classes))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            norm(inputs), conv(inputs, 4 * growth, 1), norm(4 * growth), conv(4 * growth, growth, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], 1)


def densenet_bc(norm: Norm, classes: int = 10, growth: int = 12, layers_per_block: int = 8) -> nn.Module:
    """Huang et al. 2017, DenseNet-BC for 32 px: bottlenecks, half the channels between its three blocks."""
    channels = 2 * growth
    layers: list[nn.Module] = [conv(3, channels, 3)]
    for block in range(3):
        for _ in range(layers_per_block):
            layers.append(DenseLayer(channels, growth, norm))
            channels += growth
        if block < 2:
            layers += [norm(channels), conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, norm(channels), head(channels, classes))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int, norm: Norm) -> None:
        super().__init__()
        wide = inputs * expand
        self.expand = (
            nn.Sequential(conv(inputs, wide, 1), norm(wide, "relu6")) if expand > 1 else nn.Identity()
        )
        self.depthwise = nn.Sequential(conv(wide, wide, 3, stride, groups=wide), norm(wide, "relu6"))
        self.project, self.norm = conv(wide, outputs, 1), norm(outputs, None)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return self.norm(y, x) if self.residual else self.norm(y)


def mobilenet(norm: Norm, classes: int = 100) -> nn.Module:
    """Sandler et al. 2018, MobileNetV2 at width 1."""
    layers: list[nn.Module] = [conv(3, 32, 3, 2), norm(32, "relu6")]
    inputs = 32
    rows = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expand, outputs, repeats, stride in rows:
        for repeat in range(repeats):
            layers.append(InvertedResidual(inputs, outputs, 1 if repeat else stride, expand, norm))
            inputs = outputs
    return nn.Sequential(*layers, conv(inputs, 1280, 1), norm(1280, "relu6"), head(1280, classes))
