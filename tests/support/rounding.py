"""How large rounding errors may be where terms cancel: the `scale=` of `assert_same` for each tensor of a case.

A scale counts in units of the output's last place; what is rounded in another precision is converted into it. Two
kinds of rounding are not seen in the magnitude of a result: the mean is summed and kept in the accumulation dtype,
which moves every value of a channel by the same E|x|·eps; and the terms of a sum round at random.
"""

import torch
from torch import Tensor

from support.cases import Tensors
from support.oracle import KINKS, Truth


def scales(
    truth: Truth, given: Tensors, training: bool, separate: bool, activation: str = "none"
) -> dict[str, Tensor]:
    """Scales by name of a tensor.

    Args:
        truth: the oracle's results.
        given: the tensors of the call.
        training: whether the statistics depend on the input.
        separate: whether activation and residual are passes of their own, with roundings to their own dtype between.
        activation: its name.
    """
    x = given.x
    dims = [0, *range(2, x.dim())]
    if x.numel() == 0:
        return {name: torch.zeros(x.size(1)) for name in ("y", "x", "weight", "bias", "residual")}
    wide = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
    term = torch.finfo(x.dtype).eps if separate else wide
    if separate and given.residual is not None:
        term = max(term, torch.finfo(given.residual.dtype).eps)
    n = x.numel() / x.size(1)
    # Samples that are copies of each other round alike.
    alike = x.size(0) ** 0.5 if x.stride(0) == 0 else 1.0
    d, standard = given.dy.double().abs(), truth.standard.abs()
    weight = torch.ones_like(truth.inverse) if given.weight is None else given.weight.detach().double().abs()
    # Of every normalised value of a channel: the mean's rounding, as a sum of values and as a number of `wide`; and in
    # torch's formula x·α + β two more of that size.
    shared = truth.magnitude * truth.inverse * wide * (3 if separate else 1)
    gain = weight * truth.inverse

    def total(t: Tensor) -> Tensor:
        return t.sum(dims)

    def random(t: Tensor) -> Tensor:
        # Twice: the terms round, and so do the partial sums.
        return 2 * t.square().sum(dims).sqrt() * alike * term

    def unit(name: str) -> float:
        t = getattr(given, name)
        return wide if t is None else torch.finfo(t.dtype).eps

    slope = shared * (1 + weight)  # what the shared error does to an activation's derivative as well
    if separate:
        # A constant channel without a shift lies on the jump itself: there torch's rounding decides the derivative.
        for kink in KINKS.get(activation, ()):
            slope = slope + ((truth.z - kink).abs() < 1e-6).movedim(1, 0).flatten(1).any(1)
    element = d.amax(dims)
    dx = gain * (element * (term + slope))
    if training:
        dx = (
            dx
            + gain
            * (total(d) * (term + slope) + standard.amax(dims) * total(d * standard) * (term + slope))
            / n
        )
    broadcast = given.residual is not None and given.residual.shape != x.shape
    bias = random(d) + total(d) * slope
    # Twice: difference, scale, product and sum are four roundings.
    values = 2 * truth.z.abs().amax(dims)
    return {
        "y": (shared * weight + values * term) / torch.finfo(given.dy.dtype).eps,
        "x": dx / unit("x"),
        "weight": (random(d * standard) + total(d * (1 + standard)) * slope) / unit("weight"),
        "bias": bias / unit("bias"),
        "residual": (bias if broadcast else element * (term + slope)) / unit("residual"),
    }
