"""What `batchnorm explain` prints: from words on a command line to a layer and the library's explanation."""

import torch

import batchnorm as bn
from batchnorm.core.errors import OptionError

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
LAYERS: dict[int, type[bn.BatchNorm1d | bn.BatchNorm2d | bn.BatchNorm3d]] = {
    2: bn.BatchNorm1d,
    3: bn.BatchNorm1d,
    4: bn.BatchNorm2d,
    5: bn.BatchNorm3d,
}


def layer(shape: tuple[int, ...], dtype: str, device: str, activation: str | None, *, training: bool) -> str:
    """Return the explanation of a layer for an input of `shape`.

    Raises:
        OptionError: the shape, dtype, device or activation is not one that a layer takes.
    """
    if len(shape) not in LAYERS or min(shape) < 1:
        raise OptionError(
            f"shape must be 2 to 5 positive sizes, batch first and channels second; got {shape}. "
            f"Example: batchnorm explain 32 64 56 56"
        )
    if dtype not in DTYPES:
        raise OptionError(f"--dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    try:
        module = LAYERS[len(shape)](shape[1], activation=activation, device=device).train(training)
        example = torch.empty(shape, dtype=DTYPES[dtype], device=device)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(
            f"cannot make this layer on {device!r}: {str(error).partition(chr(10))[0]}"
        ) from error
    mode = "training" if training else "evaluation"
    return "\n".join(
        (
            f"{module}",
            f"input: {shape} {dtype} on {device}, {mode}",
            str(bn.explain(module, example)),
            f"torch {torch.__version__}, {torch.get_num_threads()} threads",
        )
    )
