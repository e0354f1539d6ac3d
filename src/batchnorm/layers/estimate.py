"""Which statistics normalise: the choice `estimate=` of a layer. Values only; a layer keeps the buffers."""

from dataclasses import dataclass

__all__ = ["BatchThenRunning", "Estimate", "Frozen"]


@dataclass(frozen=True)
class Estimate:
    """A value of the choice `estimate=`."""

    def measures(self, training: bool) -> bool:
        """Whether a forward normalises with statistics that it measures itself."""
        raise NotImplementedError


@dataclass(frozen=True)
class BatchThenRunning(Estimate):
    """The default: the batch's statistics in training, the running ones in evaluation (Ioffe & Szegedy 2015)."""

    def measures(self, training: bool) -> bool:
        """In training."""
        return training


@dataclass(frozen=True)
class Frozen(Estimate):
    """The running statistics, in training too; nothing updates them, and `model.train()` does not undo it.

    Whether scale and shift train is another question: set `requires_grad` of the layer's parameters.

    Examples:
        >>> import torch, batchnorm as bn
        >>> layer = bn.BatchNorm1d(2, estimate=bn.Frozen()).train()
        >>> _ = layer(torch.randn(8, 2) + 5)
        >>> layer.running_mean
        tensor([0., 0.])
    """

    def measures(self, training: bool) -> bool:
        """Never."""
        return False
