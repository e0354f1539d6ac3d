"""Batch normalization that is right, fast, and explains itself."""

from batchnorm import functional, testing
from batchnorm.core.moments import Moments
from batchnorm.layers import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Frozen,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
    defer_statistics,
    explain,
    hold_statistics,
)

__version__ = "0.1.0"

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Frozen",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "Moments",
    "__version__",
    "defer_statistics",
    "explain",
    "functional",
    "hold_statistics",
    "testing",
]
