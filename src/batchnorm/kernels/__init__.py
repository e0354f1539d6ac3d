"""Tensors in, tensors out: the operators, their reference, and the fast kernels. No modules, no policy."""

from batchnorm.kernels import contract, reference

__all__ = ["available", "contract", "describe", "reference"]


def available(device: str) -> bool:
    """Whether kernels of ours serve devices of this type."""
    return False


def describe(device: str) -> str:
    """Which implementation of the operators serves devices of this type."""
    return "the plain reference in torch's own operations"
