"""Every operator in plain torch, for every dtype and device: the oracle of the fast kernels, and their stand-in.

The signatures and their meaning are in `contract.py`. Shape legend: x_NCL input, mask_N1L, vectors v_GC, one row a
sample s_NC. Statistics and vectors are in the accumulation dtype (float64 for float64 input, else float32).
"""

import torch
from torch import Tensor

from batchnorm.core import shapes
from batchnorm.core.activation import ACTIVATIONS, Formula

_FORMULAS: dict[int, Formula] = {formula.code: formula for formula in ACTIVATIONS.values()}


def _ncl(x: Tensor) -> Tensor:
    return x.unsqueeze(-1) if x.dim() == 2 else x.flatten(2)


def _like(v_NCL: Tensor, x: Tensor) -> Tensor:
    out = v_NCL.reshape(x.shape).to(x.dtype)
    if shapes.is_channels_last(x) and x.dim() == 3:
        return out.movedim(1, -1).contiguous().movedim(-1, 1)
    return out.contiguous(memory_format=shapes.memory_format(x))


def _group_of_sample(x: Tensor, groups: int, block: int, index: Tensor | None) -> Tensor:
    if index is not None:
        return index
    return (torch.arange(x.size(0), device=x.device) // block).clamp(max=groups - 1)


class _Groups:
    """Which group each sample belongs to, and the two ways across: samples summed into groups, groups spread."""

    def __init__(self, x: Tensor, groups: int, block: int, index: Tensor | None) -> None:
        self.groups = groups
        self.index = None if groups == 1 else _group_of_sample(x, groups, block, index)

    def sum(self, s_NC: Tensor) -> Tensor:
        if self.index is None:
            return s_NC.sum(0, keepdim=True)
        return s_NC.new_zeros(self.groups, s_NC.size(1)).index_add(0, self.index, s_NC)

    def spread(self, v_GC: Tensor) -> Tensor:
        v_NC = v_GC if self.index is None else v_GC.index_select(0, self.index)
        return v_NC.unsqueeze(-1)


def _zero_masked(v_NCL: Tensor, mask: Tensor | None) -> Tensor:
    # `where`, not a product: NaN under the mask must not leak, and its gradient is an exact zero.
    return v_NCL if mask is None else torch.where(mask.unsqueeze(1), v_NCL, 0.0)


def _counts(x: Tensor, mask: Tensor | None, group: _Groups) -> Tensor:
    if mask is None:
        per_sample = torch.full((x.size(0), 1), shapes.positions(x), dtype=torch.float64, device=x.device)
    else:
        per_sample = mask.sum(1, keepdim=True, dtype=torch.float64)
    return group.sum(per_sample).squeeze(1)


def moments(
    x: Tensor, mask: Tensor | None, groups: int, block: int, index: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    x_NCL = _ncl(x).to(shapes.accumulation_dtype(x.dtype))
    group = _Groups(x, groups, block, index)
    count = _counts(x, mask, group)
    n_G1 = count.clamp(min=1).to(x_NCL.dtype).unsqueeze(1)
    if x_NCL.numel() == 0:
        zeros = x_NCL.new_zeros(groups, x.size(1))
        return count, zeros, zeros.clone()
    # Distances from one of the channel's own values: a constant channel then has exactly its mean and no variance.
    first = x_NCL.detach()[:1, :, :1]
    shift = _zero_masked(first, None if mask is None else mask[:1, :1])
    distance = _zero_masked(x_NCL - shift, mask)
    mean_from_shift = group.sum(distance.sum(-1)) / n_G1
    mean = torch.where(count.unsqueeze(1) > 0, shift.squeeze(-1) + mean_from_shift, 0.0)
    # The second sum takes back what rounding of the mean added to the first.
    deviation = _zero_masked(x_NCL - group.spread(mean), mask)
    m2 = group.sum(deviation.square().sum(-1)) - group.sum(deviation.sum(-1)).square() / n_G1
    return count, mean, m2.clamp(min=0)


def _pre_activation(
    x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, group: _Groups
) -> Tensor:
    x_NCL = _ncl(x).to(mean.dtype)
    z = (x_NCL - group.spread(mean)) * group.spread(scale) + group.spread(shift)
    return z if residual is None else z + _ncl(residual)


def normalise(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    block: int,
    index: Tensor | None,
    activation: int,
    slope: float,
    keep_bits: bool,
) -> tuple[Tensor, Tensor]:
    group = _Groups(x, mean.size(0), block, index)
    formula = _FORMULAS[activation]
    z = _pre_activation(x, mean, scale, shift, residual, group)
    y = _like(_zero_masked(formula.apply(z, slope), mask), x)
    if not keep_bits or formula.passes is None:
        return y, x.new_empty(0, dtype=torch.uint8)
    return y, _pack(formula.passes(z), x)


def _rows(v_NCL: Tensor, x: Tensor) -> Tensor:
    """The elements in rows as `shapes.bits_shape` counts them."""
    v = v_NCL.transpose(1, 2) if shapes.is_channels_last(x) else v_NCL
    return v.reshape(v.size(0) * v.size(1), v.size(2))


def _pack(passes_NCL: Tensor, x: Tensor) -> Tensor:
    rows = _rows(passes_NCL, x)
    count, width = shapes.bits_shape(x)
    padded = torch.nn.functional.pad(rows, (0, 8 * width - rows.size(1)))
    powers = torch.arange(8, device=x.device)
    return (padded.view(count, width, 8).long() << powers).sum(-1).to(torch.uint8)


def unpack(bits: Tensor, x: Tensor) -> Tensor:
    """The record of `normalise(…, keep_bits=True)` as bool (N, C, L)."""
    n, c, length = x.size(0), x.size(1), shapes.positions(x)
    powers = torch.arange(8, device=x.device)
    rows = ((bits.unsqueeze(-1).long() >> powers) & 1).bool().flatten(1)
    if shapes.is_channels_last(x):
        return rows[:, :c].reshape(n, length, c).transpose(1, 2)
    return rows[:, :length].reshape(n, c, length)


def _gradient_and_deviation(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    bits: Tensor | None,
    mask: Tensor | None,
    group: _Groups,
    activation: int,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """g = dy·act′(z) and x − mean, both (N, C, L) and zero under the mask."""
    formula = _FORMULAS[activation]
    dy_NCL = _ncl(dy).to(mean.dtype)
    if bits is not None:
        g = torch.where(unpack(bits, x), dy_NCL, dy_NCL * slope if slope else 0.0)
    elif formula.passes is not None:
        z = _pre_activation(x, mean, scale, shift, residual, group)
        g = torch.where(formula.passes(z), dy_NCL, dy_NCL * slope if slope else 0.0)
    else:
        g = dy_NCL * formula.derivative(_pre_activation(x, mean, scale, shift, residual, group), slope)
    deviation = _ncl(x).to(mean.dtype) - group.spread(mean)
    return _zero_masked(g, mask), _zero_masked(deviation, mask)


def grad_reduce(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    bits: Tensor | None,
    mask: Tensor | None,
    block: int,
    index: Tensor | None,
    activation: int,
    slope: float,
) -> tuple[Tensor, Tensor]:
    group = _Groups(x, mean.size(0), block, index)
    g, deviation = _gradient_and_deviation(
        dy, x, mean, scale, shift, residual, bits, mask, group, activation, slope
    )
    return group.sum(g.sum(-1)), group.sum((g * deviation).sum(-1))


def grad_apply(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    p: Tensor,
    q: Tensor,
    r: Tensor,
    residual: Tensor | None,
    bits: Tensor | None,
    mask: Tensor | None,
    block: int,
    index: Tensor | None,
    activation: int,
    slope: float,
    need_residual: bool,
) -> tuple[Tensor, Tensor]:
    group = _Groups(x, mean.size(0), block, index)
    g, deviation = _gradient_and_deviation(
        dy, x, mean, scale, shift, residual, bits, mask, group, activation, slope
    )
    dx = _zero_masked(group.spread(p) * g + group.spread(q) * deviation + group.spread(r), mask)
    return _like(dx, x), _like(g, x) if need_residual else x.new_empty(0)


def _scale_and_shift(
    variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    inverse = torch.rsqrt(variance + eps)
    scale = inverse if weight is None else inverse * weight.to(inverse.dtype)
    shift = torch.zeros_like(scale) if bias is None else bias.to(scale.dtype).expand_as(scale)
    return scale, shift


def forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    slope: float,
    keep_bits: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    count, mean, m2 = moments(x, None, 1, 1, None)
    scale, shift = _scale_and_shift(m2 / count.to(m2.dtype), weight, bias, eps)
    y, bits = normalise(x, mean, scale, shift, residual, None, 1, None, activation, slope, keep_bits)
    return y, count, mean, m2, bits


def evaluate(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: int,
    slope: float,
    keep_bits: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = shapes.accumulation_dtype(x.dtype)
    mean, variance = (v.detach().to(dtype, copy=True).unsqueeze(0) for v in (running_mean, running_var))
    scale, shift = _scale_and_shift(variance, weight, bias, eps)
    y, bits = normalise(x, mean, scale, shift, residual, None, 1, None, activation, slope, keep_bits)
    return y, mean, variance, bits


def backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    m2: Tensor,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    bits: Tensor | None,
    eps: float,
    activation: int,
    slope: float,
    training: bool,
    need_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    variance = m2 / count
    scale, shift = _scale_and_shift(variance, weight, bias, eps)
    sum_g, sum_gx = grad_reduce(dy, x, mean, scale, shift, residual, bits, None, 1, None, activation, slope)
    inverse = torch.rsqrt(variance + eps)
    if training:
        q, r = -scale * inverse.square() * sum_gx / count, -scale * sum_g / count
    else:
        q = r = torch.zeros_like(scale)
    dx, dresidual = grad_apply(
        dy,
        x,
        mean,
        scale,
        shift,
        scale,
        q,
        r,
        residual,
        bits,
        None,
        1,
        None,
        activation,
        slope,
        need_residual,
    )
    dweight, dbias = (sum_gx * inverse).squeeze(0), sum_g.squeeze(0)
    return (
        dx,
        dweight if weight is None else dweight.to(weight.dtype),
        dbias.clone() if bias is None else dbias.to(bias.dtype, copy=True),
        dresidual,
    )


def update_(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    count: Tensor,
    mean: Tensor,
    m2: Tensor,
    momentum: float | None,
) -> None:
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if running_mean is None or running_var is None:
        return
    wide = mean.dtype
    degrees = (count - 1).reshape(-1)
    variance = m2.reshape(-1) / torch.where(degrees > 0, degrees, torch.nan).to(wide)
    mean = mean.reshape(-1)
    share = _share(num_batches_tracked, momentum, wide)
    finite = mean.to(running_mean.dtype).isfinite() & variance.to(running_var.dtype).isfinite()
    for running, value in ((running_mean, mean), (running_var, variance)):
        moved = (1 - share) * running.to(wide) + share * value
        running.copy_(torch.where(finite, moved.to(running.dtype), running))


def _share(num_batches_tracked: Tensor | None, momentum: float | None, dtype: torch.dtype) -> Tensor | float:
    if momentum is not None:
        return momentum
    return 0.0 if num_batches_tracked is None else num_batches_tracked.to(dtype).reciprocal()
