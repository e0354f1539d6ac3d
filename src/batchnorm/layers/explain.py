"""`explain`: which code a call runs on, and why."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm import kernels
from batchnorm.core import shapes
from batchnorm.core.activation import NONE
from batchnorm.functional import plan
from batchnorm.layers.batchnorm import Layer

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """The path of a call ("kernel" or "native"), and the reasons, one a line."""

    path: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """The path and the reasons, as text to read."""
        return "\n".join((f"runs on: {self.path}", *(f"- {reason}" for reason in self.reasons)))


def explain(
    subject: Layer | Tensor, input: Tensor | None = None, residual: Tensor | None = None
) -> Explanation:
    """Say which code a call of a layer, or a plain call on a tensor, runs on, and why. Runs nothing.

    Examples:
        >>> import torch, batchnorm as bn
        >>> print(bn.explain(torch.zeros(2, 3, device="meta")))
        runs on: native
        - the input has no storage

    Args:
        subject: a layer, or an input.
        input: an input of the layer; without it a dense one like the layer's parameters is assumed.
        residual: a residual to go with the input.

    Raises:
        TypeError: a subject of another kind.
    """
    layer = subject if isinstance(subject, Layer) else None
    if layer is None and not isinstance(subject, Tensor):
        raise TypeError(f"explain needs a layer of this package or a tensor; got {subject!r}.")
    x = subject if isinstance(subject, Tensor) else input if input is not None else _typical_input(subject)
    vectors = () if layer is None else (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    if any(v is not None and is_lazy(v) for v in vectors):
        vectors = ()
    chosen = plan.choose(x, *vectors)
    reasons = [chosen.reason]
    if chosen.path == "kernel":
        reasons.append(kernels.describe(x.device.type))
        if shapes.to_dense(x) is not x:
            reasons.append(f"strides {x.stride()} are not dense: the input is copied first")
    activation = NONE if layer is None else layer.activation
    if residual is not None and not plan.fits(x, residual):
        reasons.append(
            f"the residual {tuple(residual.shape)} {residual.dtype} has not the input's shape and dtype "
            f"{tuple(x.shape)} {x.dtype}: it and the activation are added by torch, in passes of their own"
        )
    elif chosen.path != "kernel" and (activation != NONE or residual is not None):
        reasons.append("residual and activation follow in torch, in passes of their own")
    if layer is not None and not layer.estimate.measures(layer.training):
        reasons.append("the running statistics normalise")
    return Explanation(chosen.path, tuple(reasons))


def _typical_input(layer: Layer) -> Tensor:
    like = next(iter([*layer.parameters(), *layer.buffers()]), torch.empty(0))
    dims = 5 if isinstance(layer, nn.BatchNorm3d) else 4 if isinstance(layer, nn.BatchNorm2d) else 2
    return torch.empty((2, layer.num_features) + (2,) * (dims - 2), dtype=like.dtype, device=like.device)
