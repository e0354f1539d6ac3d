"""The layers, their choices, and the contexts that hold or defer what they measure."""

from batchnorm.layers.batchnorm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
)
from batchnorm.layers.context import defer_statistics, hold_statistics
from batchnorm.layers.estimate import Frozen
from batchnorm.layers.explain import explain

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Frozen",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "defer_statistics",
    "explain",
    "hold_statistics",
]
