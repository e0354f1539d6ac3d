"""Tensors in, tensors out: the operators, their reference, and the fast kernels. No modules, no policy."""

import logging

from batchnorm.kernels import contract, cpu, reference

__all__ = ["available", "contract", "cpu", "describe", "reference"]

# The operators are defined by now; the library implements them for CPU tensors.
_MISSING = cpu.load()
if _MISSING is not None:
    logging.getLogger("batchnorm").warning("batch norm runs on torch's own CPU code: %s", _MISSING)


def available(device: str) -> bool:
    """Whether kernels of ours serve devices of this type."""
    return device == "cpu" and _MISSING is None


def describe(device: str) -> str:
    """Which implementation of the operators serves devices of this type."""
    if available(device):
        return f"C++ kernels, instruction set {cpu.isa()}"
    return "the plain reference in torch's own operations" + (f": {_MISSING}" if device == "cpu" else "")
