"""The one comparison: as accurate as torch on the same case, channel by channel, against float64."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Comparison", "assert_same", "compare", "ulp"]


@dataclass(frozen=True)
class Comparison:
    """The errors of one tensor, (C) in float64, and what each channel may have.

    Attributes:
        name: what was compared.
        error: the largest |actual − truth| of each channel.
        baseline: the largest |baseline − truth| of each channel, or None without a baseline.
        allowed: the largest error that each channel may have.
    """

    name: str
    error: Tensor
    baseline: Tensor | None
    allowed: Tensor

    @property
    def bad(self) -> list[int]:
        """The channels whose error is larger than allowed, or is not a number."""
        return (~(self.error <= self.allowed)).nonzero().flatten().tolist()

    def __str__(self) -> str:
        """The worst channels, one a line."""
        worst = sorted(self.bad, key=lambda c: -float(self.error[c] / self.allowed[c].clamp(min=1e-300)))
        lines = [f"{self.name}: {len(worst)} of {self.error.numel()} channels are less accurate than allowed"]
        for channel in worst[:5]:
            line = (
                f"  channel {channel}: error {self.error[channel]:.3g}, allowed {self.allowed[channel]:.3g}"
            )
            if self.baseline is not None:
                line += f" (baseline's own error {self.baseline[channel]:.3g})"
            lines.append(line)
        return "\n".join(lines)


def ulp(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbouring numbers of `dtype` at each magnitude, in float64."""
    limits = torch.finfo(dtype)
    _, exponent = torch.frexp(magnitude.double().clamp(min=limits.tiny))
    return torch.ldexp(torch.full_like(magnitude, limits.eps / 2, dtype=torch.float64), exponent)


def _rows(values: Tensor, channel_dim: int) -> Tensor:
    return values.detach().double().movedim(channel_dim, 0).reshape(values.size(channel_dim), -1)


def _largest(rows: Tensor) -> Tensor:
    return rows.abs().amax(1) if rows.size(1) else rows.new_zeros(rows.size(0))


def compare(
    actual: Tensor,
    truth: Tensor,
    baseline: Tensor | None = None,
    *,
    channel_dim: int | None = None,
    scale: Tensor | None = None,
    name: str = "tensor",
) -> Comparison:
    """Measure what `assert_same` judges; elements that are not finite count as equal."""
    dim = channel_dim if channel_dim is not None else min(1, truth.dim() - 1)
    found, exact = _rows(actual, dim), _rows(truth, dim)
    finite = found.isfinite() & exact.isfinite()
    error = _largest(torch.where(finite, found - exact, 0.0))
    magnitude = _largest(torch.where(finite, exact, 0.0))
    if scale is not None:
        magnitude = torch.maximum(magnitude, scale.detach().double().expand_as(magnitude))
    # A truth in float64 is itself some units off where float64 is judged.
    rounding = (8 if actual.dtype == torch.float64 else 2) * ulp(magnitude, actual.dtype)
    if baseline is None:
        return Comparison(name, error, None, rounding)
    theirs = torch.where(finite, _rows(baseline, dim) - exact, 0.0).nan_to_num(0.0, 0.0, 0.0)
    own = _largest(theirs)
    typical = own.median() if own.numel() else torch.zeros(())
    return Comparison(name, error, own, torch.maximum(own, typical) + rounding)


def assert_same(
    actual: Tensor,
    truth: Tensor,
    baseline: Tensor | None = None,
    *,
    channel_dim: int | None = None,
    scale: Tensor | None = None,
    strides: bool = False,
    dtype: torch.dtype | None = None,
    slack: float = 1.0,
    name: str = "tensor",
) -> None:
    """Raise unless `actual` is as accurate as torch's own result for the same input.

    In each channel the largest error against `truth` may be the baseline's error in this channel or the baseline's
    median channel error, whichever is larger, and 2 units in the last place of `actual.dtype` at the channel's scale
    (8 for float64, the precision of the truth). So a quiet channel is not hidden by a loud one, and nobody picks a
    tolerance. NaN and infinities must stand where the baseline or the rounded truth has them.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[1.0, 100.0], [2.0, 200.0]])
        >>> assert_same(x, x.double())
        >>> assert_same(x + 0.01, x.double(), name="y")
        Traceback (most recent call last):
            ...
        AssertionError: y: 2 of 2 channels are less accurate than allowed
          channel 0: error 0.01, allowed 4.77e-07
          channel 1: error 0.01, allowed 3.05e-05

    Args:
        actual: what is judged.
        truth: the same in float64.
        baseline: torch's own result from the same input, in the precision of `actual`.
        channel_dim: the dimension of channels; 1, or 0 for a vector.
        scale: (C), the magnitude of the terms whose sum a channel is, where they cancel; the default is the largest
            magnitude in `truth`.
        strides: also compare strides with the baseline's, where a dimension has more than one element.
        dtype: what the dtype must be; the default is the baseline's, or any without a baseline.
        slack: how many times the allowed error passes: above 1 in a search for wrong elements, where a case of a few
            values on which torch was lucky is no finding.
        name: what is compared, for the message.

    Raises:
        AssertionError: with the numbers of the worst channels.
    """
    _check_kind(actual, truth, baseline, strides, dtype, name)
    rounded = truth.to(actual.dtype)
    wrong = _kind(actual) != _kind(rounded)
    if baseline is not None:
        wrong &= _kind(actual) != _kind(baseline)
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        expected = (rounded if baseline is None else baseline)[where].item()
        raise AssertionError(
            f"{name}: {int(wrong.sum())} positions are not finite where they should be, or finite where they should "
            f"not; the first at {list(where)}: got {actual[where].item()}, expected {expected}"
        )
    result = compare(actual, truth, baseline, channel_dim=channel_dim, scale=scale, name=name)
    if slack != 1.0:
        result = replace(result, allowed=slack * result.allowed)
    if result.bad:
        raise AssertionError(str(result))


def _kind(values: Tensor) -> Tensor:
    """0 where finite, 1 and -1 for infinities, 2 for NaN."""
    sign = torch.where(values.isinf(), values.sign(), 0)
    return torch.where(values.isnan(), 2, sign.nan_to_num()).to(torch.int8)


def _check_kind(
    actual: Tensor,
    truth: Tensor,
    baseline: Tensor | None,
    strides: bool,
    dtype: torch.dtype | None,
    name: str,
) -> None:
    if truth.dtype != torch.float64:
        raise TypeError(f"{name}: the truth must be float64; got {truth.dtype}.")
    if actual.shape != truth.shape:
        raise AssertionError(f"{name}: shape {tuple(actual.shape)}, expected {tuple(truth.shape)}")
    wanted = dtype if dtype is not None or baseline is None else baseline.dtype
    if wanted is not None and actual.dtype != wanted:
        raise AssertionError(f"{name}: dtype {actual.dtype}, expected {wanted}")
    if strides:
        if baseline is None:
            raise TypeError(f"{name}: strides are compared with a baseline's; got none.")
        strides_of = [
            [s for s, size in zip(t.stride(), t.shape, strict=True) if size > 1] for t in (actual, baseline)
        ]
        if actual.numel() and strides_of[0] != strides_of[1]:
            raise AssertionError(f"{name}: strides {actual.stride()}, expected {baseline.stride()}")
