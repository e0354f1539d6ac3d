"""Forwards that update nothing, and forwards whose updates are collected into one."""

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from batchnorm.core.errors import StatisticsError
from batchnorm.functional.commit import Running, new_pending, settle
from batchnorm.layers.batchnorm import Layer

__all__ = ["Pending", "defer_statistics", "hold_statistics"]


def _layers(model: nn.Module) -> list[Layer]:
    ours, foreign = [], []
    for path, module in model.named_modules():
        if isinstance(module, Layer):
            ours.append(module)
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            foreign.append(f"{path or 'the model itself'}: {type(module).__name__}")
    if foreign or not ours:
        found = (
            "; ".join(foreign[:3]) + ("; …" if len(foreign) > 3 else "") if foreign else "no batch norm layer"
        )
        raise StatisticsError(
            f"Holding or deferring statistics needs every batch norm layer to be one of this package; got {found}. "
            "Build the model with batchnorm.BatchNorm1d/2d/3d, or pass the part of it that has only those."
        )
    return ours


def _sized(model: nn.Module) -> None:
    for path, module in model.named_modules():
        lazy = isinstance(module, Layer) and isinstance(module, LazyModuleMixin)
        if lazy and cast(Any, module).has_uninitialized_params():
            raise StatisticsError(
                f"Deferring statistics needs the number of features of every batch norm layer; got "
                f"{path or 'the model itself'}: {type(module).__name__}, which takes it from its first forward. Run "
                "one forward before the block, inside hold_statistics(model) if it shall not count."
            )


@contextmanager
def hold_statistics(model: nn.Module) -> Iterator[None]:
    """Forwards inside update no running statistics and no `num_batches_tracked`; outputs are the same.

    Examples:
        >>> import torch, batchnorm as bn
        >>> model = torch.nn.Sequential(bn.BatchNorm1d(2))
        >>> with bn.hold_statistics(model):
        ...     _ = model(torch.randn(8, 2))
        >>> model[0].num_batches_tracked
        tensor(0)

    Args:
        model: a module whose batch norm layers are all of this package. Inside `defer_statistics` hold wins.

    Raises:
        StatisticsError: the model has another batch norm layer, or none.
    """
    layers = _layers(model)
    for layer in layers:
        layer._held += 1
    try:
        yield
    finally:
        for layer in layers:
            layer._held -= 1


class Pending:
    """What the forwards of one `defer_statistics` block measured, until it is committed or discarded."""

    def __init__(self, layers: list[Layer]) -> None:
        self._layers = [layer for layer in layers if layer.running_mean is not None]
        self._collected: list[Tensor] = []
        self._outer: list[Tensor | None] = []
        # Not `__del__`: at interpreter exit that would run after torch has been taken down. Not in a compiled function:
        # its guards would see the registry of finalizers grow.
        if not torch.compiler.is_compiling():
            weakref.finalize(self, _warn_if_dropped, self._collected)

    def _open(self) -> None:
        self._outer = [layer._pending for layer in self._layers]
        for layer in self._layers:
            layer._pending = new_pending(cast(Tensor, layer.running_mean))

    def _close(self) -> None:
        self._collected[:] = self._accumulators()
        for layer, outer in zip(self._layers, self._outer, strict=True):
            layer._pending = outer
        self._outer = []

    def _accumulators(self) -> list[Tensor]:
        # While the block is open a layer owns its accumulators: `.to(device)` moves them.
        return [cast(Tensor, layer._pending) for layer in self._layers] if self._outer else self._collected

    def commit(self) -> None:
        """Make what was collected one update of each layer: momentum once, moments merged by count, counter + 1."""
        for layer, collected in zip(self._layers, self._accumulators(), strict=True):
            buffers = layer.running_mean, layer.running_var, layer.num_batches_tracked
            settle(Running(*buffers, collected), layer.momentum)
        self.discard()

    def discard(self) -> None:
        """Forget what was collected."""
        for collected in self._accumulators():
            collected.zero_()


def _warn_if_dropped(collected: list[Tensor]) -> None:
    known = [accumulators for accumulators in collected if not accumulators.is_meta]
    forwards = max((int(accumulators[0, :1].sum()) for accumulators in known), default=0)
    if forwards:
        warnings.warn(
            f"Statistics of {forwards} forward(s) were deferred and then dropped: the running statistics did not move. "
            "Call pending.commit() or pending.discard() after the block.",
            stacklevel=2,
        )


@contextmanager
def defer_statistics(model: nn.Module) -> Iterator[Pending]:
    """Collect the statistics of several forwards, for one update: gradient accumulation, or a step that may be skipped.

    The moments are merged by their counts (Chan et al. 1979), so k micro-batches update as one batch of all their
    samples would. k updates by moving average keep (1 − momentum)^k of the old value, one merged update keeps
    1 − momentum of it. An exception discards; with two blocks inside each other the inner one collects.

    Examples:
        >>> import torch, batchnorm as bn
        >>> model, x = torch.nn.Sequential(bn.BatchNorm1d(2, momentum=1.0)), torch.randn(8, 2)
        >>> with bn.defer_statistics(model) as pending:
        ...     _ = model(x[:3]), model(x[3:])
        >>> pending.commit()
        >>> torch.allclose(model[0].running_mean, x.mean(0), atol=1e-6), model[0].num_batches_tracked.item()
        (True, 1)

    Args:
        model: a module whose batch norm layers are all of this package.

    Yields:
        The pending update. One that is neither committed nor discarded warns.

    Raises:
        StatisticsError: the model has another batch norm layer, none, or a lazy one before its first forward.
    """
    _sized(model)
    pending = Pending(_layers(model))
    pending._open()
    try:
        yield pending
    except BaseException:
        pending.discard()
        raise
    finally:
        pending._close()
