"""Batch normalization in float64, written from its definition and nothing of ours."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Where the derivative of an activation jumps.
KINKS = {"relu": (0.0,), "relu6": (0.0, 6.0), "leaky_relu": (0.0,), "hardswish": (-3.0, 3.0)}


def activate(name: str, z: Tensor, slope: float = 0.01) -> Tensor:
    """An activation from its formula. At a jump of the derivative: the value that torch documents by its code."""
    zero = torch.zeros((), dtype=z.dtype)
    match name:
        case "none":
            return z
        case "relu":
            return torch.where(z <= 0, zero, z)
        case "relu6":
            return torch.where(z <= 0, zero, torch.where(z >= 6, zero + 6, z))
        case "leaky_relu":
            return torch.where(z > 0, z, slope * z)
        case "silu":
            return z / (1 + torch.exp(-z))
        case "hardswish":
            return torch.where(z <= -3, zero, torch.where(z < 3, z * (z + 3) / 6, z))
        case "gelu":
            return z / 2 * torch.erfc(-z / math.sqrt(2))
        case "gelu_tanh":
            return z / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)))
        case "sigmoid":
            return 1 / (1 + torch.exp(-z))
        case "tanh":
            return torch.tanh(z)
    raise KeyError(name)


def wide(t: Tensor | None) -> Tensor | None:
    """A float64 copy without history."""
    return None if t is None else t.detach().double().clone()


@dataclass
class Truth:
    """Output, pre-activation, normalised input, statistics, 1/√(var + eps), and the gradients by name."""

    y: Tensor
    z: Tensor
    standard: Tensor
    mean: Tensor
    unbiased: Tensor
    inverse: Tensor
    magnitude: Tensor  # of the values, a channel
    gradients: dict[str, Tensor] = field(default_factory=dict)


def batch_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: Tensor | None = None,
    var: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    eps: float = 1e-5,
    dy: Tensor | None = None,
) -> Truth:
    """act((x − mean)/√(var + eps)·weight + bias + residual); the batch's own statistics where `mean` is None."""
    x, weight, bias, mean, var, residual = map(wide, (x, weight, bias, mean, var, residual))
    leaves = {"x": x, "weight": weight, "bias": bias, "residual": residual}
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items() if leaf is not None}
    dims = [0, *range(2, x.dim())]
    column = [1, -1] + [1] * (x.dim() - 2)
    n = x.numel() // max(x.size(1), 1)
    if mean is None:
        mean = x.mean(dims)
        deviation = x - mean.view(column)
        # The mean's own rounding error, taken back: it matters where float64 itself is judged.
        rest = deviation.mean(dims)
        mean, deviation = mean + rest, deviation - rest.view(column)
        biased = deviation.square().mean(dims)
        unbiased = biased * n / (n - 1) if n > 1 else torch.full_like(biased, math.nan)
    else:
        deviation, biased, unbiased = x - mean.view(column), var, var
    magnitude = x.detach().abs().mean(dims).nan_to_num()
    inverse = 1 / torch.sqrt(biased + eps)
    standard = deviation * inverse.view(column)
    z = standard if weight is None else standard * weight.view(column)
    z = z if bias is None else z + bias.view(column)
    z = z if residual is None else z + residual
    z.retain_grad()
    y = activate(activation, z)
    truth = Truth(
        y.detach(),
        z.detach(),
        standard.detach(),
        mean.detach(),
        unbiased.detach(),
        inverse.detach(),
        magnitude,
    )
    if dy is not None:
        y.backward(wide(dy))
        truth.gradients = {name: leaf.grad for name, leaf in leaves.items()}
    return truth
