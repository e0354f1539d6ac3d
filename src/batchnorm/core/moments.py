"""Moments: count, mean and sum of squared deviations, a value that merges. Where it is measured: `kernels`."""

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Moments"]


@dataclass(frozen=True, eq=False)
class Moments:
    r"""Per-channel count, mean and sum of squared deviations of a set of values.

    $$ m_2 = \sum_i (x_i - \bar x)^2 $$

    Merging is associative and commutative, so chunks of a tensor, groups of samples, ranks of a process group and
    batches of a loader all use it (Chan, Golub, LeVeque 1979). A set may be empty (count 0) or hold one value.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[1.0], [2.0], [3.0], [6.0]], dtype=torch.float64)
        >>> both = Moments.of(x[:1]).merge(Moments.of(x[1:]))
        >>> both.mean.item(), both.variance(correction=0).item()
        (3.0, 3.5)

    Attributes:
        count: values per channel, float64; any shape that broadcasts against `mean`.
        mean: (…, C), float64 for float64 values, else float32.
        m2: like `mean`.
    """

    count: Tensor
    mean: Tensor
    m2: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "Moments":
        """The moments of `values` (n, C) over their first dimension."""
        wide = values.double() if values.dtype == torch.float64 else values.float()
        n = values.size(0)
        mean = wide.mean(0) if n else wide.new_zeros(wide.shape[1:])
        count = torch.full((), n, dtype=torch.float64, device=values.device)
        return cls(count, mean, (wide - mean).square().sum(0))

    @classmethod
    def merge_all(cls, parts: "Iterable[Moments]") -> "Moments":
        """The moments of the union of `parts`, merged from left to right."""
        return reduce(lambda left, right: left.merge(right), parts)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of the union of two disjoint sets; nothing merged with nothing stays nothing."""
        total = self.count + other.count
        share = torch.where(total > 0, other.count / total, 0.0)
        delta = other.mean - self.mean
        mean = self.mean + delta * share.to(delta.dtype)
        m2 = self.m2 + other.m2 + delta.square() * (self.count * share).to(delta.dtype)
        return Moments(total, mean, m2)

    def variance(self, *, correction: int) -> Tensor:
        """$m_2 / (n - c)$ with `correction` c: 0 as normalisation uses it, 1 as running statistics keep it.

        NaN where the count does not exceed `correction`. There is no default: a reader always sees which one is meant.
        """
        degrees = self.count - correction
        return self.m2 / torch.where(degrees > 0, degrees, torch.nan).to(self.m2.dtype)
