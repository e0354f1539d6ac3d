"""The stateless call: torch's `batch_norm` with an activation and a residual in the same pass.

Which code runs is decided in `plan.py`; gradients are in `autograd.py`; running statistics in `commit.py`.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.core import private, shapes
from batchnorm.core.activation import Activation
from batchnorm.core.moments import Moments
from batchnorm.functional import autograd, plan
from batchnorm.functional.commit import Running, commit

__all__ = ["batch_norm", "batch_norm_with_statistics", "normalise"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | nn.Module | Activation | None = None,
) -> Tensor:
    r"""Batch normalization, then a residual and an activation in the same pass.

    $$ y = \mathrm{act}\Big(\frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}}\,\gamma + \beta + r\Big) $$

    The positional arguments are those of `torch.nn.functional.batch_norm`. In training the running statistics move in
    place, per channel, and only where the batch's statistics are finite; inside a running backward they do not move.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> batch_norm(x, None, None, training=True, activation="relu").round(decimals=3)
        tensor([[0.],
                [1.]])

    Args:
        input: (N, C) or (N, C, …) of float32, float64, bfloat16 or float16.
        running_mean: (C), or None to use the batch's statistics only.
        running_var: (C), or None.
        weight: γ, (C), or None for 1.
        bias: β, (C), or None for 0.
        training: normalise with the statistics of this batch.
        momentum: how far the running statistics move towards this batch.
        eps: added to the variance.
        residual: r, any shape that broadcasts against `input`; in one pass if its shape and dtype are `input`'s.
        activation: a name of `core.activation.ACTIVATIONS`, torch's module of it, or None.

    Returns:
        The output, with the shape and dtype of `input` (torch's promotion rules with another residual).

    Raises:
        ValueError: one value per channel in training, or an `eps` that is not positive.
        RuntimeError: tensors whose sizes, dtypes or devices do not fit, in torch's words.
    """
    act = Activation.of(activation)
    if plan.exporting():
        y = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return act(y, residual)
    y, moments = normalise(input, running_mean, running_var, weight, bias, training, eps, residual, act)
    if moments is not None and running_mean is not None and running_var is not None:
        commit(Running(running_mean, running_var), moments, momentum)
    return y


def batch_norm_with_statistics(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | nn.Module | Activation | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Like `batch_norm`, but returns the new running statistics and writes to none of its arguments.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[1.0], [3.0]])
        >>> y, mean, var = batch_norm_with_statistics(x, torch.zeros(1), torch.ones(1), training=True)
        >>> mean, var
        (tensor([0.2000]), tensor([1.1000]))

    Returns:
        The output, the new running mean and the new running variance (C); the latter two are new tensors.
    """
    mean, var = _copy(running_mean, input), _copy(running_var, input)
    y = batch_norm(
        input, mean, var, weight, bias, training, momentum, eps, residual=residual, activation=activation
    )
    return y, mean, var


def _copy(running: Tensor, x: Tensor) -> Tensor:
    if private.functorch_active():
        # Under vmap a copy takes part in the dimension of `x`, so that each sample can write its own.
        return running.detach() + x.new_zeros(running.shape, dtype=running.dtype)
    return running.detach().clone()


def normalise(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
    residual: Tensor | None,
    activation: Activation,
) -> tuple[Tensor, Moments | None]:
    """The output, and in training the batch's moments; writes nothing."""
    if training:
        _check_batch(x, eps)
    elif eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    if residual is not None and not plan.fits(x, residual):
        y, moments = normalise(
            x, running_mean, running_var, weight, bias, training, eps, None, Activation("none")
        )
        return activation(y, residual), moments
    chosen = plan.choose(x, weight, bias, running_mean, running_var)
    if not torch.compiler.is_compiling():
        plan.calls[chosen.path] += 1
    if chosen.path == "kernel" and training:
        y, *measured = autograd.run(x, weight, bias, residual, None, None, eps, activation)
        return y, Moments(*cast(list[Tensor], measured))
    if chosen.path == "kernel" and running_mean is not None and running_var is not None:
        return autograd.run(x, weight, bias, residual, running_mean, running_var, eps, activation)[0], None
    y, moments = _native(x, running_mean, running_var, weight, bias, training, eps)
    return activation(y, residual), moments


def _check_batch(x: Tensor, eps: float) -> None:
    if x.size(0) * shapes.positions(x) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {x.size()}. One value has no "
            "variance. Drop the last incomplete batch (DataLoader(drop_last=True)), use a larger batch, or normalise "
            "with the running statistics (estimate=Frozen(), or layer.eval())."
        )
    if eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")


def _native(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Moments | None]:
    """Torch's batch norm, on copies of the running statistics: what it saves for backward must not be live.

    In training the copies start at 0 and momentum is 1, so that they end as the batch's mean and unbiased variance.
    """
    vectors = weight, bias, running_mean, running_var
    wide = shapes.accumulation_dtype(x.dtype)
    if not plan.usual(x, vectors):
        # torch's own checks judge what we do not know: it raises in its own words, or accepts.
        mean, var = (None if v is None else v.clone() for v in (running_mean, running_var))
        try:
            y = F.batch_norm(x, mean, var, weight, bias, training, 0.0, eps)
        except (RuntimeError, NotImplementedError) as error:
            raise type(error)(f"{error}. Got {_describe(x, *vectors)}.") from None
        if x.dim() < 2:
            # Only a vector without an element comes here: torch lets it pass, and there is nothing to measure.
            return y, None
    elif x.dtype != wide:
        # Beside 16-bit input torch takes float32 for all vectors or for none; statistics want float32.
        weight, bias = (None if v is None else v.to(wide) for v in (weight, bias))
    if not training:
        mean, var = (None if v is None else v.to(wide, copy=True) for v in (running_mean, running_var))
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), None
    mean, var = (x.new_zeros(x.size(1), dtype=wide) for _ in range(2))
    y = F.batch_norm(x, mean, var, weight, bias, True, 1.0, eps)
    count = x.size(0) * shapes.positions(x)
    n = torch.full((1,), count, dtype=torch.float64, device=x.device)
    return y, Moments(n, mean.unsqueeze(0), (var * max(count - 1, 0)).unsqueeze(0))


def _describe(x: Tensor, *vectors: Tensor | None) -> str:
    names = ("weight", "bias", "running_mean", "running_var")
    parts = [f"input {tuple(x.shape)} {x.dtype} on {x.device}"]
    parts += [
        f"{name} {tuple(v.shape)} {v.dtype} on {v.device}"
        for name, v in zip(names, vectors, strict=True)
        if v is not None
    ]
    return ", ".join(parts)
