"""One batch norm step written for torch, for `torch.compile` and for this library: what a race is between."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

import batchnorm
from batchnorm.bench.race import Contender
from batchnorm.core.activation import Activation
from batchnorm.core.errors import OptionError

__all__ = [
    "AGAIN",
    "COMPILED",
    "KINDS",
    "LAYOUTS",
    "MASK_FREE",
    "OURS",
    "TORCH",
    "Inputs",
    "Problem",
    "contender",
    "contenders",
]

TORCH: Final = "torch"
AGAIN: Final = "torch again"
OURS: Final = "batchnorm"
COMPILED: Final = "torch.compile"
# torch.compile stores a ReLU's mask as bool, with scalar code on some processors: a ReLU that needs none
MASK_FREE: Final = "torch.compile, no mask"
KINDS: Final = (TORCH, AGAIN, OURS, COMPILED, MASK_FREE)

LAYOUTS: Final = ("contiguous", "channels_last")
_TORCH_LAYERS: Final = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_OUR_LAYERS: Final = {
    2: batchnorm.BatchNorm1d,
    3: batchnorm.BatchNorm1d,
    4: batchnorm.BatchNorm2d,
    5: batchnorm.BatchNorm3d,
}
_CHANNELS_LAST: Final = {4: torch.channels_last, 5: torch.channels_last_3d}
DTYPES: Final = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Of a whole result, by its norm. In float32 torch's own channels-last sums are off by up to 7e-4 at the shapes of the
# benchmarks; in 16 bits torch rounds between the layer, the sum and the activation, and a fused pass does not.
_TOLERANCES: Final = {"float32": 2e-3, "float64": 1e-9, "bfloat16": 3e-2, "float16": 1e-2}


@dataclass(frozen=True)
class Problem:
    """What is computed: act(bn(x) + residual) in training with its gradients, or in evaluation without."""

    shape: tuple[int, ...]
    activation: str | None = "relu"
    residual: bool = False
    layout: str = "contiguous"
    dtype: str = "float32"
    training: bool = True

    def __post_init__(self) -> None:
        if not 2 <= len(self.shape) <= 5 or min(self.shape) < 1:
            raise OptionError(
                f"shape must be 2 to 5 positive sizes, batch first and channels second; got {self.shape}."
            )
        if self.layout not in LAYOUTS:
            raise OptionError(f"layout must be one of {', '.join(LAYOUTS)}; got {self.layout!r}.")
        if self.layout == "channels_last" and len(self.shape) not in _CHANNELS_LAST:
            raise OptionError(f"channels_last is a layout of 4-D and 5-D tensors; got shape {self.shape}.")
        if self.dtype not in DTYPES:
            raise OptionError(f"dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}.")
        Activation.of(self.activation)

    @property
    def operation(self) -> str:
        """The computation in words: "bn + add + relu", "bn", "evaluation: bn + relu"."""
        parts = ["bn"] + ["add"] * self.residual + [self.activation] * (self.activation is not None)
        return ("" if self.training else "evaluation: ") + " + ".join(map(str, parts))

    @property
    def tolerance(self) -> float:
        """How far two right codes may be apart, by the norm of a result."""
        return _TOLERANCES[self.dtype]

    def __str__(self) -> str:
        """The computation, the shape, and what is not the usual: layout, dtype."""
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.operation} ({','.join(map(str, self.shape))}) {self.layout}{dtype}"


@dataclass(frozen=True)
class Inputs:
    """The tensors of a problem, the same for every contender. Parameters of 16-bit input are float32."""

    x: Tensor
    residual: Tensor | None
    dy: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, problem: Problem, seed: int = 0) -> "Inputs":
        """Normal values, from a seed."""
        generator = torch.Generator().manual_seed(seed)
        channels, dtype = problem.shape[1], DTYPES[problem.dtype]
        wide = torch.float64 if dtype == torch.float64 else torch.float32

        def values(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator, dtype=wide)

        def like_input() -> Tensor:
            t = values(*problem.shape).to(dtype)
            last = problem.layout == "channels_last"
            return t.contiguous(memory_format=_CHANNELS_LAST[t.dim()]) if last else t

        x = like_input().requires_grad_(problem.training)
        residual = like_input().requires_grad_(problem.training) if problem.residual else None
        with torch.no_grad():
            # With a mean and a part along x, so that no term of the gradient is too small for the comparison.
            dy = like_input().add_(x, alpha=0.5).add_(0.5)
        return cls(x, residual, dy, values(channels).abs() + 0.5, values(channels))


class _ReluWithoutMask(torch.autograd.Function):
    """ReLU whose derivative is the sign of its output, so that no boolean tensor is kept for backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        y = nn.functional.relu(z)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return grad_outputs[0] * torch.sign(ctx.saved_tensors[0])


def _in_torch(layer: nn.Module, problem: Problem, *, mask_free: bool = False) -> Callable[..., Tensor]:
    """The step as one writes it in torch: in place where torch's own models are."""
    activation = Activation.of(problem.activation)
    relu = activation.name == "relu"

    def call(x: Tensor, residual: Tensor | None) -> Tensor:
        y = layer(x)
        if residual is not None:
            y += residual
        if relu:
            return _ReluWithoutMask.apply(y) if mask_free else nn.functional.relu(y, inplace=True)
        return activation(y)

    return call


def _callable(kind: str, layer: nn.Module, problem: Problem) -> Callable[..., Tensor]:
    if kind == OURS:
        return layer
    call = _in_torch(layer, problem, mask_free=kind == MASK_FREE)
    return torch.compile(call, dynamic=False) if kind in (COMPILED, MASK_FREE) else call


def _layer(kind: str, problem: Problem, inputs: Inputs) -> nn.Module:
    dims, channels = len(problem.shape), problem.shape[1]
    dtype = inputs.weight.dtype
    if kind == OURS:
        layer = _OUR_LAYERS[dims](channels, dtype=dtype, activation=problem.activation)
    else:
        layer = _TORCH_LAYERS[dims](channels, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(inputs.weight)
        layer.bias.copy_(inputs.bias)
        if not problem.training:
            # Statistics of the data's size, not the initial 0 and 1 that a careless code could get right.
            layer.get_buffer("running_mean").copy_(inputs.bias * 0.1)
            layer.get_buffer("running_var").copy_(inputs.weight)
    return layer.train(problem.training)


def contender(
    name: str, call: Callable[..., Tensor], layer: nn.Module, problem: Problem, inputs: Inputs
) -> Contender:
    """The step of any code: `call(x, residual)` and, in training, all gradients."""
    if not problem.training:

        def evaluate() -> Tensor:
            with torch.no_grad():
                return call(inputs.x, inputs.residual)

        return Contender(name, evaluate)
    wanted = [t for t in (inputs.x, *layer.parameters(), inputs.residual) if t is not None]
    return Contender(
        name,
        lambda: call(inputs.x, inputs.residual),
        lambda y: torch.autograd.grad(y, wanted, inputs.dy),
        lambda: [layer.get_buffer("running_mean"), layer.get_buffer("running_var")],
    )


def contenders(problem: Problem, kinds: Sequence[str] = (TORCH, AGAIN, OURS)) -> list[Contender]:
    """The contenders of a problem on the same inputs, each with its own layer.

    "torch again" is torch's code once more: how far two times of the same thing are apart. A compiled
    contender is compiled at its first step.
    """
    inputs = Inputs.of(problem)
    made: list[Contender] = []
    for kind in kinds:
        layer = _layer(kind, problem, inputs)
        made.append(contender(kind, _callable(kind, layer, problem), layer, problem, inputs))
    return made
