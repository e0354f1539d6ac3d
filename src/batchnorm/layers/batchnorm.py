"""The layers: torch's `BatchNorm1d/2d/3d` and their lazy forms, with the choices of this package.

A layer holds options and state. The call is in `functional/batch_norm.py`, holding and deferring in `context.py`,
refusals of other tools in `neighbours.py`.
"""

from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from batchnorm.core.activation import NONE, Activation
from batchnorm.core.errors import OptionError
from batchnorm.functional import plan
from batchnorm.functional.batch_norm import normalise
from batchnorm.functional.commit import Running, commit
from batchnorm.layers.estimate import BatchThenRunning, Estimate
from batchnorm.layers.neighbours import Neighbours, log

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Layer",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
]


class Layer(Neighbours):
    """What all our layers share: the choices, and one forward. torch's layer comes after it in each class."""

    # torch's own initialiser resets the statistics before the choices are set.
    activation: Activation = NONE
    estimate: Estimate = BatchThenRunning()
    update_statistics: bool = True
    _held: int = 0
    _pending: Tensor | None = None

    def _choose(
        self,
        activation: "str | nn.Module | Activation | None",
        estimate: Estimate | None,
        update_statistics: bool,
    ) -> None:
        self.activation = Activation.of(activation)
        self.estimate = BatchThenRunning() if estimate is None else estimate
        self.update_statistics = update_statistics
        # On the instance from the start: that they appear later would make torch.compile compile again.
        self._held = 0
        self._pending = None
        if not isinstance(self.estimate, Estimate):
            raise OptionError(f"estimate must be None or a value such as Frozen(); got {estimate!r}.")
        if not self.track_running_stats and not self.estimate.measures(training=True):
            raise OptionError(
                f"estimate={estimate!r} normalises with running statistics; got track_running_stats=False, "
                "so there are none. Leave track_running_stats=True."
            )

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """act(bn(input) + residual).

        Args:
            input: (N, C) or (N, C, L) for 1d, (N, C, H, W) for 2d, (N, C, D, H, W) for 3d.
            residual: added before the activation; of `input`'s shape and dtype it takes no pass of its own.

        Raises:
            ValueError: a wrong number of dimensions, or one value per channel in training.
            RuntimeError: tensors whose sizes, dtypes or devices do not fit.
        """
        if isinstance(input, fx.Proxy):
            return self._fx_leaf(input, residual)
        self._check_input_dim(input)
        mean, var = self.running_mean, self.running_var
        if self.training and not self.track_running_stats:
            mean = var = None
        measures = self.estimate.measures(self.training) or (mean is None and var is None)
        if plan.exporting():
            return self._exported(input, residual, mean, var, measures)
        y, moments = normalise(
            input, mean, var, self.weight, self.bias, measures, self.eps, residual, self.activation
        )
        if moments is not None and self._updates():
            commit(Running(mean, var, self.num_batches_tracked, self._pending), moments, self.momentum)
        return y

    def _updates(self) -> bool:
        """Whether statistics that a forward measures may reach the running ones."""
        return self.training and self.track_running_stats and self.update_statistics and not self._held

    def _exported(
        self, input: Tensor, residual: Tensor | None, mean: Tensor | None, var: Tensor | None, measures: bool
    ) -> Tensor:
        """The layer in torch's own operations."""
        momentum = self.momentum
        if measures and not self._updates():
            mean = var = None
        if measures and mean is not None and var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                return self.activation(self._exported_average(input, mean, var), residual)
        y = F.batch_norm(input, mean, var, self.weight, self.bias, measures, momentum or 0.0, self.eps)
        return self.activation(y, residual)

    def _exported_average(self, input: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        # The share of this batch is a tensor, which torch's batch norm does not take as its momentum.
        batch_mean, batch_var = torch.zeros_like(mean), torch.zeros_like(var)
        y = F.batch_norm(input, batch_mean, batch_var, self.weight, self.bias, True, 1.0, self.eps)
        share = cast(Tensor, self.num_batches_tracked).to(mean.dtype).reciprocal()
        for running, batch in ((mean, batch_mean), (var, batch_var)):
            running.add_((batch - running) * share)
        return y

    def reset_running_stats(self) -> None:
        """Set mean 0, variance 1 and no batches; a frozen layer keeps its statistics and logs that it does.

        `torch.optim.swa_utils.update_bn` resets every layer before it measures: what does not measure would lose its
        statistics for good.
        """
        if self.estimate.measures(training=True):
            super().reset_running_stats()
        else:
            log.info(
                "reset_running_stats of %s(estimate=%s) does nothing", type(self).__name__, self.estimate
            )

    def reset_parameters(self) -> None:
        """Initialise everything, as the constructor does; here a frozen layer gets mean 0 and variance 1 too."""
        estimate, self.estimate = self.estimate, BatchThenRunning()
        try:
            super().reset_parameters()
        finally:
            self.estimate = estimate

    def extra_repr(self) -> str:
        """Torch's line, then what differs: the activation and the three switches."""
        parts = [super().extra_repr()]
        if self.activation != NONE:
            parts.append(f"activation={self.activation}")
        parts += [f"estimate={self.estimate}", f"update_statistics={self.update_statistics}"]
        if self.weight is not None:
            parts.append(f"requires_grad={self.weight.requires_grad}")
        return ", ".join(parts)


class _Sized(Layer):
    """The constructor of layers whose number of features is given."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: "str | nn.Module | Activation | None" = None,
        estimate: Estimate | None = None,
        update_statistics: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **_bias(bias)
        )
        self._choose(activation, estimate, update_statistics)


class _Lazy(Layer):
    """The constructor of layers whose number of features is that of their first input."""

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: "str | nn.Module | Activation | None" = None,
        estimate: Estimate | None = None,
        update_statistics: bool = True,
    ) -> None:
        arguments: Any = (eps, momentum, affine, track_running_stats, device, dtype)
        super().__init__(*arguments, **_bias(bias))
        self._choose(activation, estimate, update_statistics)

    def initialize_parameters(self, input: Tensor, residual: Tensor | None = None) -> None:
        # Of torch's lazy layer, the next class.
        super().initialize_parameters(input)  # pyright: ignore[reportAttributeAccessIssue]


def _bias(bias: bool) -> dict[str, bool]:
    # `bias=` is younger than the oldest torch that we support.
    return {} if bias else {"bias": False}


class BatchNorm1d(_Sized, nn.BatchNorm1d):
    r"""`torch.nn.BatchNorm1d` for (N, C) or (N, C, L), with an activation and a residual in the same pass.

    $$ y = \mathrm{act}\Big(\frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}}\,\gamma + \beta + r\Big) $$

    Same numbers, `state_dict` and errors as torch's layer (Ioffe & Szegedy 2015); see `BatchNorm2d` for what is added.

    Examples:
        >>> import torch, batchnorm as bn
        >>> bn.BatchNorm1d(3)(torch.randn(8, 3)).shape
        torch.Size([8, 3])
    """


class BatchNorm2d(_Sized, nn.BatchNorm2d):
    r"""`torch.nn.BatchNorm2d` for (N, C, H, W), with an activation and a residual in the same pass.

    $$ y = \mathrm{act}\Big(\frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}}\,\gamma + \beta + r\Big) $$

    Same numbers, `state_dict` and errors as torch's layer (Ioffe & Szegedy 2015). What is added: a batch whose
    statistics are not finite never reaches the running statistics; a recomputed forward (activation checkpointing)
    does not update them again; what backward needs is private, so a forward in between cannot spoil it.

    Examples:
        >>> import torch, batchnorm as bn
        >>> layer = bn.BatchNorm2d(16, activation="relu")
        >>> x = torch.randn(4, 16, 8, 8)
        >>> torch.equal(layer(x, x), layer(x, x).clamp(min=0))
        True

    Args:
        num_features: C, the number of channels.
        eps: added to the variance.
        momentum: how far the running statistics move towards each batch; None for the average of all batches.
        affine: learn γ (`weight`) and β (`bias`), each (C).
        track_running_stats: keep `running_mean`, `running_var` (C) and `num_batches_tracked`.
        device: of parameters and buffers.
        dtype: of parameters and running statistics.
        bias: learn β as well, where `affine`.
        activation: what follows in the same pass: None, a name ("relu", "relu6", "leaky_relu", "leaky_relu(0.2)",
            "silu", "hardswish", "gelu", "gelu_tanh", "sigmoid", "tanh"), or torch's own module of one of these.
        estimate: which statistics normalise: None (the batch's in training, the running ones in evaluation) or
            `Frozen()`.
        update_statistics: whether training forwards move the running statistics. `train()` and `eval()` leave it.

    Raises:
        OptionError: a value that cannot work (a `ValueError`).
    """


class BatchNorm3d(_Sized, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` for (N, C, D, H, W), with what `BatchNorm2d` adds.

    Examples:
        >>> import torch, batchnorm as bn
        >>> bn.BatchNorm3d(3)(torch.randn(2, 3, 4, 4, 4)).shape
        torch.Size([2, 3, 4, 4, 4])
    """


class LazyBatchNorm1d(_Lazy, nn.LazyBatchNorm1d):
    """`BatchNorm1d` that takes its number of features from its first input.

    Examples:
        >>> import torch, batchnorm as bn
        >>> layer = bn.LazyBatchNorm1d(activation="relu")
        >>> _ = layer(torch.randn(8, 5))
        >>> layer.num_features
        5
    """

    cls_to_become: type[Any] | None = BatchNorm1d


class LazyBatchNorm2d(_Lazy, nn.LazyBatchNorm2d):
    """`BatchNorm2d` that takes its number of features from its first input; see `LazyBatchNorm1d`."""

    cls_to_become: type[Any] | None = BatchNorm2d


class LazyBatchNorm3d(_Lazy, nn.LazyBatchNorm3d):
    """`BatchNorm3d` that takes its number of features from its first input; see `LazyBatchNorm1d`."""

    cls_to_become: type[Any] | None = BatchNorm3d
