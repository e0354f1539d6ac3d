"""One random configuration a seed: any shape, any options, any instruction set and number of threads."""

import random
from typing import Any

import torch

from batchnorm import kernels
from support import cases, product

# Sizes around the widths of vectors, rows and blocks, and plain small ones.
CHANNELS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65, 513)
POSITIONS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 64, 65, 257)
LARGEST = 40_000
# This search looks for wrong elements; the last bits are judged in `conformance`, on cases with more than a few values.
SLACK = 8.0


def draw(seed: int) -> tuple[dict[str, Any], tuple[int, ...], str, int]:
    """Options, shape, instruction set and threads of a seed."""
    rng = random.Random(seed)
    case = {name: rng.choice(values) for name, values in product.OPTIONS.items() if name != "shape"}
    while True:
        shape = (rng.randint(2, 40), rng.choice(CHANNELS), *rng.choices(POSITIONS, k=rng.randint(0, 3)))
        if torch.Size(shape).numel() <= LARGEST:
            break
    return case, shape, rng.choice(kernels.cpu.isas()), rng.choice((1, 2, 3))


def check(seed: int) -> bool:
    """Raise unless the kernels are as accurate as torch on this seed's case; False where it has no fair input."""
    case, shape, isa, threads = draw(seed)
    cases.SHAPES["random"] = shape
    before, ours = torch.get_num_threads(), kernels.cpu.isa()
    kernels.cpu.configure(isa)
    torch.set_num_threads(threads)
    try:
        product.check({**case, "shape": "random"}, "kernel", SLACK)
    except cases.NoFairInput:
        return False
    except AssertionError as error:
        raise AssertionError(
            f"seed {seed}: {shape} {product.name_of(case)} {isa} {threads} threads: {error}"
        ) from None
    finally:
        torch.set_num_threads(before)
        kernels.cpu.configure(ours)
    return True
