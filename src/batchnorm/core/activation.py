"""The one table of activations: name, code, torch modules, formula, derivative.

To add one: a row here, and a case in `kernels/cpu/activation.h` (until then the plain-torch path runs it).
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.core.errors import OptionError

__all__ = ["ACTIVATIONS", "NONE", "Activation", "Formula"]

Pointwise = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Formula:
    """One row: `apply(z, slope)` is the activation, `derivative(z, slope)` its derivative; NaN as torch does."""

    code: int
    modules: tuple[type[nn.Module], ...]
    apply: Pointwise
    derivative: Pointwise
    # Where the derivative has two values: true for the elements that have the value 1. One bit an element then
    # replaces the pre-activation in what backward has to keep.
    passes: Callable[[Tensor], Tensor] | None = None


def _identity(z: Tensor, slope: float) -> Tensor:
    return z


def _two_valued(passes: Callable[[Tensor], Tensor]) -> Pointwise:
    return lambda z, slope: torch.full_like(z, slope).masked_fill(passes(z), 1.0)


def _relu_passes(z: Tensor) -> Tensor:
    return ~(z <= 0)


def _relu6_passes(z: Tensor) -> Tensor:
    return ~((z <= 0) | (z >= 6))


def _leaky_relu_passes(z: Tensor) -> Tensor:
    return z > 0


def _silu_derivative(z: Tensor, slope: float) -> Tensor:
    return torch.sigmoid(z) * (1 + z * torch.sigmoid(-z))


def _hardswish_derivative(z: Tensor, slope: float) -> Tensor:
    return torch.where(z <= -3, 0.0, torch.where(z < 3, z / 3 + 0.5, 1.0)).to(z.dtype)


def _gelu_derivative(z: Tensor, slope: float) -> Tensor:
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return 0.5 * torch.erfc(-z / math.sqrt(2)) + z * density


def _gelu_tanh_derivative(z: Tensor, slope: float) -> Tensor:
    # s(1 − s) from two sigmoids, not 1 − tanh²: where that cancels, z³ multiplies what is left.
    u = 2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    s, rest = torch.sigmoid(u), torch.sigmoid(-u)
    return s + z * s * rest * 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)


ACTIVATIONS: Final[dict[str, Formula]] = {
    "none": Formula(0, (), _identity, lambda z, slope: torch.ones_like(z)),
    "relu": Formula(1, (nn.ReLU,), lambda z, slope: torch.relu(z), _two_valued(_relu_passes), _relu_passes),
    "relu6": Formula(2, (nn.ReLU6,), lambda z, slope: F.relu6(z), _two_valued(_relu6_passes), _relu6_passes),
    "leaky_relu": Formula(
        3, (nn.LeakyReLU,), F.leaky_relu, _two_valued(_leaky_relu_passes), _leaky_relu_passes
    ),
    "silu": Formula(4, (nn.SiLU,), lambda z, slope: F.silu(z), _silu_derivative),
    "hardswish": Formula(5, (nn.Hardswish,), lambda z, slope: F.hardswish(z), _hardswish_derivative),
    "gelu": Formula(6, (nn.GELU,), lambda z, slope: F.gelu(z), _gelu_derivative),
    "gelu_tanh": Formula(
        7, (nn.GELU,), lambda z, slope: F.gelu(z, approximate="tanh"), _gelu_tanh_derivative
    ),
    "sigmoid": Formula(
        8,
        (nn.Sigmoid,),
        lambda z, slope: torch.sigmoid(z),
        lambda z, slope: torch.sigmoid(z) * torch.sigmoid(-z),
    ),
    "tanh": Formula(9, (nn.Tanh,), lambda z, slope: torch.tanh(z), lambda z, slope: 1 - torch.tanh(z) ** 2),
}

_WITH_SLOPE = re.compile(r"leaky_relu\((.+)\)")


@dataclass(frozen=True)
class Activation:
    """An activation by name, with leaky ReLU's slope (0 elsewhere: the lower value of a two-valued derivative)."""

    name: str
    slope: float = 0.0
    # Looked up once, because every call of a layer reads them: the number by which the operators know the activation,
    # and whether its derivative has two values.
    code: int = field(init=False, repr=False, compare=False)
    one_bit: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Look up the row of the table."""
        object.__setattr__(self, "code", ACTIVATIONS[self.name].code)
        object.__setattr__(self, "one_bit", ACTIVATIONS[self.name].passes is not None)

    def __call__(self, z: Tensor, residual: Tensor | None = None) -> Tensor:
        """The activation of `z + residual`, in plain torch."""
        if residual is not None:
            z = z + residual
        return ACTIVATIONS[self.name].apply(z, self.slope)

    def __str__(self) -> str:
        """The text that `activation=` accepts and that a layer's repr shows."""
        return f"leaky_relu({self.slope:g})" if self.name == "leaky_relu" else self.name

    @staticmethod
    def of(value: "str | nn.Module | Activation | None") -> "Activation":
        """The activation that `activation=value` means.

        Raises:
            OptionError: an unknown name, or a module that is not exactly one of torch's modules in the table.
        """
        if value is None:
            return NONE
        if isinstance(value, Activation):
            return value
        if isinstance(value, nn.Module):
            return _of_module(value)
        if value == "leaky_relu":
            return Activation("leaky_relu", nn.LeakyReLU().negative_slope)
        if value in ACTIVATIONS:
            return Activation(value)
        sloped = _WITH_SLOPE.fullmatch(value) if isinstance(value, str) else None
        if sloped:
            return Activation("leaky_relu", _number(sloped[1]))
        raise OptionError(f"activation must be None, a module of torch or one of {_known()}; got {value!r}.")


def _known() -> str:
    return ", ".join(f'"{name}"' for name in ACTIVATIONS if name != "none") + ', "leaky_relu(0.2)"'


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise OptionError(f'the slope in activation="leaky_relu({text})" must be a number.') from None


def _of_module(module: nn.Module) -> Activation:
    # A subclass may compute something else under the same name, so the type must match exactly.
    for name, formula in ACTIVATIONS.items():
        if type(module) in formula.modules:
            if isinstance(module, nn.LeakyReLU):
                return Activation(name, module.negative_slope)
            if isinstance(module, nn.GELU) and module.approximate == "tanh":
                return Activation("gelu_tanh")
            return Activation(name)
    raise OptionError(
        f"activation must be None, a name or one of torch's own modules for {_known()}; got {module!r} of type "
        f"{type(module).__module__}.{type(module).__qualname__}. Apply it after the layer instead."
    )


NONE: Final = Activation("none")
