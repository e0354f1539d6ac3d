"""How much faster is a whole training step of a network, forward and backward, with our layers instead of torch's?"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from batchnorm.bench.contenders import AGAIN, OURS, TORCH
from batchnorm.bench.race import Contender, check_same
from benchmarks.measure import Case, main
from benchmarks.models_zoo import Norm, TorchNorm, densenet_bc, mobilenet, our_norm, resnet18

Network = Callable[[Norm], nn.Module]

MODELS: tuple[tuple[str, Network, tuple[int, ...]], ...] = (
    ("DenseNet-BC", densenet_bc, (64, 3, 32, 32)),
    ("MobileNetV2-like", mobilenet, (32, 3, 112, 112)),
    ("ResNet-18", resnet18, (64, 3, 32, 32)),
)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def build(network: Network, norm: Norm, layout: str, dtype: torch.dtype) -> nn.Module:
    """The network with weights from one seed, the same whichever layers it has: they are listed in the same order."""
    torch.manual_seed(0)
    return network(norm).to(dtype, memory_format=FORMATS[layout])


def step(name: str, model: nn.Module, x: Tensor, labels: Tensor) -> Contender:
    parameters = list(model.parameters())
    return Contender(
        name,
        lambda: nn.functional.cross_entropy(model(x), labels),
        lambda loss: torch.autograd.grad(loss, parameters),
        lambda: [b for b in model.buffers() if b.is_floating_point()],
    )


def contenders(network: Network, shape: tuple[int, ...], layout: str) -> Sequence[Contender]:
    def steps(norms: dict[str, Norm], samples: int, dtype: torch.dtype) -> list[Contender]:
        x = torch.randn((samples, *shape[1:]), dtype=dtype).contiguous(memory_format=FORMATS[layout])
        labels = torch.arange(samples) % 10
        return [step(name, build(network, norm, layout, dtype), x, labels) for name, norm in norms.items()]

    # Compared in float64 and with a few samples: in float32 rounding grows from layer to layer in both networks.
    check_same(steps({TORCH: TorchNorm, OURS: our_norm}, 8, torch.float64), 1e-9)
    return steps({TORCH: TorchNorm, AGAIN: TorchNorm, OURS: our_norm}, shape[0], torch.float32)


def _make(network: Network, shape: tuple[int, ...], layout: str) -> Callable[[], Sequence[Contender]]:
    return lambda: contenders(network, shape, layout)


def cases() -> list[Case]:
    return [
        Case(
            f"{name} ({','.join(map(str, shape))}) {layout}",
            _make(network, shape, layout),
            (TORCH, AGAIN, OURS),
            tolerance=None,
            seconds=14,
            rounds=(7, 21),
            quick=name == "DenseNet-BC" and layout == "contiguous",
        )
        for name, network, shape in MODELS
        for layout in FORMATS
    ]


if __name__ == "__main__":
    main("models", cases(), __doc__)
