"""The operators: their schemas, their fake (shape-only) versions, and the reference beneath every device.

Private, pure (but for `update_`), without autograd of their own: gradients are in `functional/autograd.py`. A device
with kernels of ours registers them under its own dispatch key, over the reference that is registered here.

Vocabulary. x is (N, C, *positions), dense, seen as (N, C, L); vectors are (G, C) in the accumulation dtype.
Sample n belongs to group `index[n]`, or without `index` to `min(n // block, groups - 1)`: groups=1, block=1 is the
whole batch. mask is bool (N, L), True = real. dy, residual and dx have the strides of x. `activation` is a code of
`core.activation`, `slope` its slope; `bits` records where a two-valued derivative is 1 (`shapes.bits_shape`).
"""

from typing import Any, Final

import torch
from torch import Tensor

from batchnorm.core import shapes
from batchnorm.core.activation import ACTIVATIONS
from batchnorm.kernels import reference

_GRADIENT: Final = (
    "Tensor dy, Tensor x, Tensor mean, Tensor scale, Tensor shift{extra}, Tensor? residual, Tensor? bits, "
    "Tensor? mask, SymInt block, Tensor? index, int activation, float slope"
)

SCHEMAS: Final[dict[str, str]] = {
    # count (G) float64, mean (G, C), m2 (G, C); an empty group has 0, 0, 0.
    "moments": "(Tensor x, Tensor? mask, SymInt groups, SymInt block, Tensor? index) -> (Tensor, Tensor, Tensor)",
    # y = act(scale·(x − mean) + shift + residual), 0 under the mask; bits where keep_bits, else empty.
    "normalise": "(Tensor x, Tensor mean, Tensor scale, Tensor shift, Tensor? residual, Tensor? mask, SymInt block, "
    "Tensor? index, int activation, float slope, bool keep_bits) -> (Tensor, Tensor)",
    # Σg and Σg·(x − mean), (G, C), with g = dy·act′.
    "grad_reduce": f"({_GRADIENT.format(extra='')}) -> (Tensor, Tensor)",
    # dx = p·g + q·(x − mean) + r, dresidual = g, both 0 under the mask.
    "grad_apply": f"({_GRADIENT.format(extra=', Tensor p, Tensor q, Tensor r')}, bool need_residual)"
    " -> (Tensor, Tensor)",
    # The local training case in one call: y, count (1), mean (1, C), m2 (1, C), bits.
    "forward": "(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, float eps, int activation, float slope, "
    "bool keep_bits) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    # Evaluation in one call: y, private copies (1, C) of mean and variance, bits.
    "evaluate": "(Tensor x, Tensor running_mean, Tensor running_var, Tensor? weight, Tensor? bias, "
    "Tensor? residual, float eps, int activation, float slope, bool keep_bits) -> (Tensor, Tensor, Tensor, Tensor)",
    # Their gradient in one call: dx, dweight, dbias, dresidual. The variance is m2 / count; `training` says whether
    # the statistics depend on x.
    "backward": "(Tensor dy, Tensor x, Tensor mean, Tensor m2, SymInt count, Tensor? weight, Tensor? bias, "
    "Tensor? residual, Tensor? bits, float eps, int activation, float slope, bool training, bool need_residual)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    # One step of the running statistics: a channel moves only if its mean and variance are finite in the buffers'
    # dtypes; momentum None is the cumulative average.
    "update_": "(Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked, Tensor count, "
    "Tensor mean, Tensor m2, float? momentum) -> ()",
}

library: Final = torch.library.Library("batchnorm", "DEF")


def _empty_like(x: Tensor) -> Tensor:
    if x.dim() == 3 and shapes.is_channels_last(x):
        return x.new_empty(x.size(0), x.size(2), x.size(1)).movedim(-1, 1)
    return torch.empty_like(x, memory_format=shapes.memory_format(x))


def _vectors(x: Tensor, groups: int, how_many: int) -> tuple[Tensor, ...]:
    dtype = shapes.accumulation_dtype(x.dtype)
    return tuple(x.new_empty((groups, x.size(1)), dtype=dtype) for _ in range(how_many))


_ONE_BIT: Final = {formula.code for formula in ACTIVATIONS.values() if formula.passes is not None}


def _bits(x: Tensor, activation: int, slope: float, keep: bool) -> Tensor:
    kept = keep and activation in _ONE_BIT
    return x.new_empty(shapes.bits_shape(x) if kept else (0,), dtype=torch.uint8)


def _fake_moments(
    x: Tensor, mask: Tensor | None, groups: int, block: int, index: Tensor | None
) -> tuple[Tensor, ...]:
    return x.new_empty((groups,), dtype=torch.float64), *_vectors(x, groups, 2)


def _fake_normalise(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _empty_like(x), _bits(x, *rest[-3:])


def _fake_grad_reduce(dy: Tensor, x: Tensor, mean: Tensor, *rest: object) -> tuple[Tensor, ...]:
    return _vectors(x, mean.size(0), 2)


def _fake_grad_apply(dy: Tensor, x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return _empty_like(x), _empty_like(x) if rest[-1] else x.new_empty(0)


def _fake_forward(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return (
        _empty_like(x),
        x.new_empty((1,), dtype=torch.float64),
        *_vectors(x, 1, 2),
        _bits(x, *rest[-3:]),
    )


def _fake_evaluate(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _empty_like(x), *_vectors(x, 1, 2), _bits(x, *rest[-3:])


def _fake_backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    m2: Tensor,
    count: int,
    weight: Tensor | None,
    bias: Tensor | None,
    *rest: object,
) -> tuple[Tensor, ...]:
    dweight, dbias = (
        x.new_empty(x.size(1), dtype=m2.dtype if v is None else v.dtype) for v in (weight, bias)
    )
    return _empty_like(x), dweight, dbias, _empty_like(x) if rest[-1] else x.new_empty(0)


def _fake_update_(*arguments: object) -> None:
    return None


def _register() -> None:
    for name, schema in SCHEMAS.items():
        library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        library.impl(name, getattr(reference, name), "CompositeExplicitAutograd")
        torch.library.register_fake(f"batchnorm::{name}", globals()[f"_fake_{name}"], lib=library)


_register()
