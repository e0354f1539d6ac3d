"""The one autograd function over our operators, and the differentiable formula behind its double backward."""

from typing import Any

import torch
from torch import Tensor

from batchnorm.core import shapes
from batchnorm.core.activation import Activation
from batchnorm.kernels import reference

__all__ = ["BatchNormFunction", "Normalised"]

_ops = torch.ops.batchnorm

# y, and the count, mean and m2 that normalised it (in evaluation: no count, and the variance for m2)
Normalised = tuple[Tensor, Tensor | None, Tensor, Tensor]


def _same_layout(t: Tensor, x: Tensor) -> Tensor:
    """`t` with the strides of the dense `x`; a copy where they differ, as for an expanded gradient."""
    return t if t.stride() == x.stride() else torch.empty_like(x).copy_(t)


def _traced_layout(x: Tensor) -> torch.memory_format | None:
    """The layout of the dense `x` as a value; None for 3-D channels-last, which torch has no name for."""
    return None if x.dim() == 3 and shapes.is_channels_last(x) else shapes.memory_format(x)


def _in_layout(t: Tensor, layout: torch.memory_format | None) -> Tensor:
    # Dynamo knows no strides in a backward, and its method `contiguous` asks for them; the operator does not, and
    # leaves a tensor as it is where nothing has to change.
    contiguous = torch.ops.aten.contiguous.default
    if layout is None:
        return contiguous(t.movedim(1, -1)).movedim(-1, 1)
    return contiguous(t, memory_format=layout)


def run(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    activation: Activation,
) -> Normalised:
    """Normalise with the batch's statistics, or with the running ones where they are given; differentiable.

    `x` may have any strides; `residual` has its shape and dtype.
    """
    x = shapes.to_dense(x)
    if residual is not None:
        # Dynamo refuses an autograd function that gets the same tensor twice.
        residual = _same_layout(residual.view_as(x) if residual is x else residual, x)
    if torch.is_grad_enabled() and (
        x.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        return BatchNormFunction.apply(x, weight, bias, residual, running_mean, running_var, eps, activation)
    return _forward(x, weight, bias, residual, running_mean, running_var, eps, activation, False)[:4]


def _forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    eps: float,
    activation: Activation,
    keep_bits: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """y, count, mean, m2, bits; in evaluation no count, and the variance in the place of m2."""
    code, slope = activation.code, activation.slope
    if running_mean is None:
        return _ops.forward.default(x, weight, bias, residual, eps, code, slope, keep_bits)
    y, mean, variance, bits = _ops.evaluate.default(
        x, running_mean, running_var, weight, bias, residual, eps, code, slope, keep_bits
    )
    return y, None, mean, variance, bits


class BatchNormFunction(torch.autograd.Function):
    """y = act(bn(x) + residual); saves the input and private copies of the statistics, never a live buffer."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        eps: float,
        activation: Activation,
    ) -> Normalised:
        """Normalise, and keep what backward needs."""
        # The residual itself is needed again only where its sum with bn(x) decides a derivative that has no record.
        keep_bits = residual is not None and activation.one_bit
        keep_residual = residual is not None and not keep_bits and activation.code != 0
        y, count, mean, m2, bits = _forward(
            x, weight, bias, residual, running_mean, running_var, eps, activation, keep_bits
        )
        ctx.save_for_backward(
            x, weight, bias, residual if keep_residual else None, mean, m2, bits if keep_bits else None
        )
        ctx.options = eps, activation, running_mean is None
        ctx.layout = _traced_layout(x) if torch.compiler.is_compiling() else None
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in (count, mean, m2) if t is not None))
        return y, count, mean, m2

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradients; as a graph of torch's own operations where they are to be differentiated again."""
        if dy is None:
            return (None,) * 8
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return *_differentiable_backward(ctx, dy), None, None, None, None
        x, weight, bias, residual, mean, m2, bits = ctx.saved_tensors
        eps, activation, training = ctx.options
        # At least 1: the gradients of an empty batch are zeros, not 0 / 0.
        count = max(x.size(0) * shapes.positions(x), 1) if training else 1
        need_residual = ctx.needs_input_grad[3]
        # Without an activation the residual's gradient is dy itself.
        separate = need_residual and activation.code != 0
        dx, dweight, dbias, dresidual = _ops.backward.default(
            _in_layout(dy, ctx.layout) if torch.compiler.is_compiling() else _same_layout(dy, x),
            x,
            mean,
            m2,
            count,
            weight,
            bias,
            residual,
            bits,
            eps,
            activation.code,
            activation.slope,
            training,
            separate,
        )
        return (
            dx,
            None if weight is None else dweight,
            None if bias is None else dbias,
            (dresidual if separate else dy) if need_residual else None,
            None,
            None,
            None,
            None,
        )


def _differentiable_backward(ctx: Any, dy: Tensor) -> list[Tensor | None]:
    """The same gradients as a graph of torch's own operations, so that they can be differentiated again.

    Differentiating through the raw backward operator instead would give a wrong value without an error.
    """
    x, weight, bias, residual, mean, m2, bits = ctx.saved_tensors
    eps, activation, training = ctx.options
    with torch.enable_grad():
        # Views are nodes of their own: an input that was passed twice keeps two separate gradients.
        inputs: list[Any] = [None if t is None else t.view_as(t) for t in (x, weight, bias, residual)]
        x_, weight_, bias_, residual_ = inputs
        weight_, bias_ = (None if t is None else t.to(mean.dtype) for t in (weight_, bias_))
        used_mean, used_var = (None, None) if training else (mean.squeeze(0), m2.squeeze(0))
        z = torch.batch_norm(
            x_, weight_, bias_, used_mean, used_var, training, 0.0, eps, torch.backends.cudnn.enabled
        )
        dresidual = dy
        if bits is not None:
            # A two-valued derivative is constant wherever it exists.
            passes = reference.unpack(bits, x).reshape(x.shape)
            slope = torch.full_like(x, activation.slope).masked_fill(passes, 1.0)
            y, dresidual = z * slope, dy * slope
        else:
            y = activation(z, residual_)
        wanted = {i: t for i, t in enumerate(inputs) if t is not None and ctx.needs_input_grad[i]}
        found = torch.autograd.grad(y, list(wanted.values()), dy, create_graph=True)
    gradients: list[Tensor | None] = [None] * 4
    for i, gradient in zip(wanted, found, strict=True):
        gradients[i] = gradient
    if ctx.needs_input_grad[3] and residual is None:
        gradients[3] = dresidual
    return gradients
