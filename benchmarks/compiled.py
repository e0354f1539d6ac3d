"""Inside torch.compile: is our operator faster, our reference opened up to Inductor, or torch's own batch norm?

"operator": our layer as it is, opaque to Inductor. "reference": the same autograd function with the reference's plain
operations in the operators' place, which Inductor may fuse with each other and with what surrounds them.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import batchnorm
from batchnorm import kernels
from batchnorm.bench.contenders import COMPILED, LAYOUTS, OURS, Inputs, Problem, contender
from batchnorm.bench.race import Contender
from batchnorm.functional import autograd
from benchmarks.measure import Case, main
from benchmarks.models_zoo import BasicBlock, TorchNorm, our_norm
from benchmarks.shapes import MAIN
from benchmarks.targets import COMPILED_AGAIN

REFERENCE = "reference in Inductor"
RACERS = (COMPILED, COMPILED_AGAIN, OURS, REFERENCE)
BLOCK = (32, 64, 28, 28)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# The operators that the autograd function calls, answered by the reference itself.
OPENED = SimpleNamespace(
    **{
        name: SimpleNamespace(default=getattr(kernels.reference, name))
        for name in ("forward", "evaluate", "backward")
    }
)

Call = Callable[..., Tensor]


@contextmanager
def opened() -> Generator[None]:
    """Let Inductor see the reference's operations where the autograd function calls an operator."""
    before = autograd._ops
    autograd._ops = OPENED
    try:
        yield
    finally:
        autograd._ops = before


def compiled(kind: str, module: nn.Module) -> Call:
    """The module, compiled. Two functions, as torch keeps compiled code by function: they must not share it."""

    def as_operator(*inputs: Tensor | None) -> Tensor:
        return module(*inputs)

    def as_reference(*inputs: Tensor | None) -> Tensor:
        return module(*inputs)

    if kind != REFERENCE:
        return torch.compile(as_operator, dynamic=False)
    call = torch.compile(as_reference, dynamic=False)

    def in_the_open(*inputs: Tensor | None) -> Any:
        with opened():
            return call(*inputs)

    return in_the_open


def problem_contenders(problem: Problem) -> Sequence[Contender]:
    inputs = Inputs.of(problem)
    made = []
    for kind in RACERS:
        channels = problem.shape[1]
        ours = kind in (OURS, REFERENCE)
        module = batchnorm.BatchNorm2d(channels, activation="relu") if ours else TorchNorm(channels)
        layer = module if ours else module.layer
        with torch.no_grad():
            layer.weight.copy_(inputs.weight)
            layer.bias.copy_(inputs.bias)
        made.append(contender(kind, compiled(kind, module), layer, problem, inputs))
    return made


def block_contenders(layout: str) -> Sequence[Contender]:
    """A residual block of two convolutions."""
    generator = torch.Generator().manual_seed(0)
    x, dy = (
        torch.randn(BLOCK, generator=generator).contiguous(memory_format=FORMATS[layout]) for _ in range(2)
    )
    x.requires_grad_()

    def step(kind: str) -> Contender:
        torch.manual_seed(0)
        ours = kind in (OURS, REFERENCE)
        block = BasicBlock(BLOCK[1], BLOCK[1], 1, our_norm if ours else TorchNorm)
        block = block.to(memory_format=FORMATS[layout])
        call, wanted = compiled(kind, block), [x, *block.parameters()]
        return Contender(kind, lambda: call(x), lambda y: torch.autograd.grad(y, wanted, dy))

    return [step(kind) for kind in RACERS]


def _make(build: Callable[[Any], Sequence[Contender]], subject: Any) -> Callable[[], Sequence[Contender]]:
    return lambda: build(subject)


def cases() -> list[Case]:
    found = []
    for layout in LAYOUTS:
        for shape in MAIN:
            problem = Problem(shape, "relu", False, layout)
            make = _make(problem_contenders, problem)
            found.append(Case(f"compiled: {problem}", make, RACERS, seconds=4, quick=shape == MAIN[1]))
        size = ",".join(map(str, BLOCK))
        name = f"compiled: residual block ({size}) {layout}"
        found.append(Case(name, _make(block_contenders, layout), RACERS, seconds=6))
    return found


if __name__ == "__main__":
    main("compiled", cases(), __doc__)
