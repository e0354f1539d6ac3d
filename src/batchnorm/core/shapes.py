"""How an input is seen as (N, C, L), and in which memory format its output comes. Pure Python, no arithmetic.

Legend: N samples, C channels, L positions (1 for 2-D input), G groups of samples that share statistics.
"""

import torch
from torch import Tensor

__all__ = ["accumulation_dtype", "bits_shape", "is_channels_last", "memory_format", "positions", "to_dense"]

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of statistics: float64 for float64 input, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def positions(x: Tensor) -> int:
    """L, the number of values that one sample has in one channel."""
    count = 1
    for size in x.shape[2:]:
        count *= size
    return count


def _strides_look_channels_last(x: Tensor) -> bool:
    """torch's own rule (sizes of 1 and ties decided in favour of NCHW), also for tensors with gaps."""
    least = 0
    for dim in (1, *range(x.dim() - 1, 1, -1), 0):
        size, stride = x.size(dim), x.stride(dim)
        if size == 0 or stride < least or (dim == 0 and least == x.stride(1)):
            return False
        least = stride * size if size > 1 else stride
    return True


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format in which torch's batch norm returns its output for `x`."""
    channels_last = _CHANNELS_LAST.get(x.dim())
    if channels_last is None or x.is_contiguous():
        return torch.contiguous_format
    # Strides of dimensions of size 1 mislead the second question, not the first.
    if x.is_contiguous(memory_format=channels_last) or _strides_look_channels_last(x):
        return channels_last
    return torch.contiguous_format


def is_channels_last(x: Tensor) -> bool:
    """Whether channels are the fastest dimension of a dense `x`: its rows are positions, else (sample, channel) pairs.

    3-D input counts too: that is how (batch, time, features) looks after `movedim(-1, 1)`.
    """
    if x.dim() == 2:
        return True
    return x.stride(1) == 1 and x.size(1) > 1 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def bits_shape(x: Tensor) -> tuple[int, int]:
    """The shape of the one-bit record of an activation: a row of `x` in whole bytes."""
    n, c, length = x.size(0), x.size(1), positions(x)
    if is_channels_last(x):
        return n * length, (c + 7) // 8
    return n * c, (length + 7) // 8


def to_dense(x: Tensor) -> Tensor:
    """`x` itself where it is dense, else a copy in the memory format that the output will have."""
    if x.is_contiguous():
        return x
    return x.contiguous(memory_format=memory_format(x))
