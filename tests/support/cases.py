"""Inputs in every dtype, layout and shape; the channels of one input are of different kinds."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from support import oracle

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16

# name: dtype of the input, of parameters and buffers
DTYPES = {
    "fp32": (F32, F32),
    "fp64": (F64, F64),
    "bf16": (BF16, BF16),
    "bf16+fp32": (BF16, F32),
    "fp16": (F16, F16),
    "fp16+fp32": (F16, F32),
}

SHAPES = {
    "2d": (13, 6),
    "3d": (5, 6, 9),
    "4d": (4, 6, 5, 3),
    "5d": (3, 6, 2, 3, 3),
    "one_position": (9, 6, 1, 1),
    "empty": (0, 6, 4, 4),
    "one_channel": (6, 1, 5, 3),
    "wide": (3, 37, 4, 5),
    "long": (2, 6, 33, 17),
}


def _channels_last(t: Tensor) -> Tensor:
    return t.movedim(1, -1).contiguous().movedim(-1, 1)


def _permuted(t: Tensor) -> Tensor:
    backwards = tuple(reversed(range(t.dim())))
    return t.permute(backwards).contiguous().permute(backwards)


def _transposed(t: Tensor) -> Tensor:
    return t.transpose(0, 1).contiguous().transpose(0, 1)


def _sliced(t: Tensor) -> Tensor:
    # Every second element of a larger tensor, with NaN between.
    between = torch.full((*t.shape[:-1], 2 * t.size(-1) + 1), torch.nan, dtype=t.dtype)
    between[..., 1::2] = t
    return between[..., 1::2]


def _expanded(t: Tensor) -> Tensor:
    return t[:1].expand_as(t)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": _channels_last,
    "permuted": _permuted,
    "transposed": _transposed,
    "sliced": _sliced,
    "expanded": _expanded,
}

# How the gradient lies, in the words of LAYOUTS; "scalar" is what `y.sum()` sends back.
GRADIENTS = ("contiguous", "channels_last", "sliced", "expanded", "scalar")

RESIDUALS = ("none", "same", "broadcast", "other_dtype")

ACTIVATIONS = (
    "none",
    "relu",
    "relu6",
    "leaky_relu",
    "silu",
    "hardswish",
    "gelu",
    "gelu_tanh",
    "sigmoid",
    "tanh",
)

# The mean of a channel with a huge offset (its standard deviation is 1): as far as the dtype has digits left.
OFFSETS = {F64: 1e4, F32: 1e4, F16: 300.0, BF16: 40.0}

KINDS = ("plain", "wide", "offset", "small", "constant", "padded")


def fill(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Values of `shape`; channel c is of kind KINDS[c % 6]."""
    x = torch.randn(shape, generator=generator, dtype=F64)
    offset = OFFSETS[dtype]
    for c in range(shape[1]):
        match KINDS[c % len(KINDS)]:
            case "wide":
                x[:, c] = x[:, c] * 3 - 1
            case "offset":
                x[:, c] += offset
            case "small":
                x[:, c] *= 1e-3
            case "constant":
                x[:, c] = 0.7
            case "padded":
                real = torch.rand(x[:, c].shape, generator=generator) < 0.4
                x[:, c] = torch.where(real, x[:, c] + offset, 0.0)
    return x.to(dtype)


@dataclass
class Tensors:
    """The tensors of one call; `x`, `weight`, `bias` and `residual` are leaves."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    var: Tensor
    residual: Tensor | None
    dy: Tensor

    def leaves(self) -> dict[str, Tensor]:
        named = {"x": self.x, "weight": self.weight, "bias": self.bias, "residual": self.residual}
        return {name: t for name, t in named.items() if t is not None}


class NoFairInput(Exception):
    """Some pre-activations stay near a jump."""


def make(seed: int = 0, **options: object) -> Tensors:
    """The tensors of a case, see `_make`; the first seed from `seed` on that gives an input without kinks."""
    for attempt in range(20):
        try:
            return _make(torch.Generator().manual_seed(1000 * seed + attempt), **options)
        except NoFairInput:
            continue
    raise NoFairInput(f"no input without pre-activations near a jump was found for {options}")


def _make(
    generator: torch.Generator,
    dtype: str = "fp32",
    shape: str = "4d",
    layout: str = "contiguous",
    gradient: str = "contiguous",
    residual: str = "none",
    affine: str = "yes",
    activation: str = "none",
    training: bool = True,
    samples: int | None = None,
    like: Tensors | None = None,
) -> Tensors:
    """No pre-activation is near a jump of the activation's derivative.

    There the float64 truth and a 16-bit result could rightly differ by the whole gradient. Parameters and running
    statistics are those of `like`, where given.
    """
    of_input, of_parameters = DTYPES[dtype]
    sizes = (SHAPES[shape][0] if samples is None else samples, *SHAPES[shape][1:])
    channels = sizes[1]
    x = fill(sizes, of_input, generator)
    draw = torch.randn(4, channels, generator=generator, dtype=F64)
    weight = (draw[0] + 0.2 * draw[0].sign()).to(of_parameters) if affine != "no" else None
    bias = (draw[1] + draw[1].sign()).to(of_parameters) if affine == "yes" else None
    # Running statistics as training left them: near the channel's own, so that evaluation sees sane values.
    dims, column = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
    mean = x.double().mean(dims).nan_to_num()
    var = (
        (x.double() - mean.view(column)).square().mean(dims).nan_to_num().clamp(max=1e4) + 0.5 + draw[3].abs()
    )
    mean = mean + 0.1 * draw[2]
    mean, var = mean.to(of_parameters), var.to(of_parameters)
    if like is not None:
        weight, bias, mean, var = like.weight, like.bias, like.mean, like.var
    r = _residual(residual, sizes, of_input, generator)
    if layout == "expanded":
        x = x[:1].expand_as(x)
    statistics = (None, None) if training else (mean, var)
    x, r = _away_from_kinks(x, r, weight, bias, statistics, activation, layout == "expanded")
    # Made with the dtype that the sum with the residual has.
    out = torch.result_type(x, r) if r is not None else of_input
    dy = torch.randn(sizes, generator=generator, dtype=F64).to(out)
    dy = dy.new_full((1,) * dy.dim(), 0.7).expand(sizes) if gradient == "scalar" else LAYOUTS[gradient](dy)
    x = LAYOUTS[layout](x)
    r = LAYOUTS[layout](r) if r is not None and r.shape == x.shape else r
    made = Tensors(x, weight, bias, mean, var, r, dy)
    for leaf in made.leaves().values():
        leaf.requires_grad_()
    return made


def _residual(
    kind: str, sizes: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> Tensor | None:
    if kind == "none":
        return None
    if kind == "broadcast":
        sizes = (1, sizes[1], *(1 for _ in sizes[2:]))
    r = torch.randn(sizes, generator=generator, dtype=F64)
    other = F32 if dtype in (BF16, F16, F64) else BF16
    return r.to(other if kind == "other_dtype" else dtype)


def _away_from_kinks(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: tuple[Tensor | None, Tensor | None],
    activation: str,
    expanded: bool,
) -> tuple[Tensor, Tensor | None]:
    kinks, margin = oracle.KINKS.get(activation, ()), 0.05
    full = residual is not None and residual.shape == x.shape
    dims, column = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
    if expanded and full:
        residual = residual[:1].expand_as(x)
    for _ in range(60):
        truth = oracle.batch_norm(x, weight, bias, *statistics, residual)
        z = truth.z
        near = torch.zeros_like(z, dtype=torch.bool)
        for kink in kinks:
            near |= ((z - kink).abs() < margin) & (z != kink)
        if not near.any():
            return x, residual
        if full:
            residual = torch.where(near, residual + 0.2, residual)
        else:
            # A step in x that moves z by about 4 margins, and that its dtype can express.
            step = 0.2 * (x.detach().double() - truth.mean.view(column)).abs().mean(dims, keepdim=True).clamp(
                min=1e-3
            )
            if statistics[1] is not None:
                step = 0.2 * statistics[1].double().sqrt().view(column)
            step = step if weight is None else step / weight.double().abs().view(column).clamp(min=0.2)
            step = torch.maximum(step, 2 * torch.finfo(x.dtype).eps * x.double().abs())
            x = torch.where(near, x + step, x).to(x.dtype)
    raise NoFairInput
