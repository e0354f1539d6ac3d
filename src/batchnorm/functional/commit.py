"""The transaction: how a forward's moments reach the running statistics, once, outside the autograd function.

`commit_` is one opaque operator that looks at the world when it runs, so that a compiled graph and every kind of
checkpoint take the same decision: inside a running backward (a recomputation) it does nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from batchnorm.core import private
from batchnorm.core.moments import Moments
from batchnorm.kernels import reference
from batchnorm.kernels.contract import library

__all__ = ["Running", "commit", "new_pending", "settle"]

_ops = torch.ops.batchnorm


@dataclass(frozen=True)
class Running:
    """The buffers that a forward may update, and where a deferred update is collected instead."""

    mean: Tensor | None
    var: Tensor | None
    num_batches_tracked: Tensor | None = None
    pending: Tensor | None = None


def commit(running: Running, moments: Moments, momentum: float | None) -> None:
    """Propose the moments of one training forward to the running statistics.

    Does nothing inside a running backward. Where an update is deferred, they are merged into what is pending; else the
    running statistics move once. Per channel mean and variance are written together, and only if both are finite.
    """
    buffers = running.mean, running.var, running.num_batches_tracked, running.pending
    run = _ops.commit_.default if torch.compiler.is_compiling() else _commit
    run(*buffers, moments.count, moments.mean, moments.m2, momentum)


def _commit(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    pending: Tensor | None,
    count: Tensor,
    mean: Tensor,
    m2: Tensor,
    momentum: float | None,
) -> None:
    if private.inside_backward():
        return
    if pending is None:
        # A transform has rules for torch's own operations, not for an operator that writes.
        update = reference.update_ if private.functorch_active() else _ops.update_.default
        update(running_mean, running_var, num_batches_tracked, count, mean, m2, momentum)
    elif running_mean is not None and running_var is not None:
        _collect(pending, Moments(count, mean, m2), running_mean.dtype, running_var.dtype)


def new_pending(running_mean: Tensor) -> Tensor:
    """Empty accumulators (4, C), float64: forwards seen, then count, mean and m2."""
    return torch.zeros(4, running_mean.numel(), dtype=torch.float64, device=running_mean.device)


def _collect(pending: Tensor, moments: Moments, mean_dtype: torch.dtype, var_dtype: torch.dtype) -> None:
    mean, m2 = moments.mean.reshape(-1).double(), moments.m2.reshape(-1).double()
    biased = m2 / moments.count.clamp(min=1)
    finite = mean.to(mean_dtype).isfinite() & biased.to(var_dtype).isfinite()
    left = Moments(*(torch.where(finite, v, 0.0) for v in (moments.count.expand_as(mean), mean, m2)))
    merged = Moments(pending[1], pending[2], pending[3]).merge(left)
    pending.copy_(torch.stack((pending[0] + 1, merged.count, merged.mean, merged.m2)))


def settle(running: Running, momentum: float | None) -> None:
    """Make what was collected one update of the running statistics; nothing if no forward was collected."""
    if running.pending is not None:
        buffers = running.mean, running.var, running.num_batches_tracked, running.pending
        run = _ops.settle_.default if torch.compiler.is_compiling() else _settle
        run(*buffers, momentum)


def _settle(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    pending: Tensor,
    momentum: float | None,
) -> None:
    if not pending.is_meta and bool(pending[0].any()):
        count, mean, m2 = pending[1:].unbind()
        _ops.update_.default(running_mean, running_var, num_batches_tracked, count, mean, m2, momentum)


def _fake(*arguments: object) -> None:
    return None


def _register(name: str, schema: str, run: Callable[..., None]) -> None:
    # Captured into a CUDA graph they could no longer look at the world.
    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe))
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"batchnorm::{name}", _fake, lib=library)


_BUFFERS = "Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked"
_register(
    "commit_",
    f"({_BUFFERS}, Tensor(d!)? pending, Tensor count, Tensor mean, Tensor m2, float? momentum) -> ()",
    _commit,
)
_register("settle_", f"({_BUFFERS}, Tensor pending, float? momentum) -> ()", _settle)
