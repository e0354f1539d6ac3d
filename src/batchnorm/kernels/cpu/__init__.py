"""The CPU kernels: a small C++ library that is loaded on request, and a reason where it is not there."""

import os
from functools import cache
from pathlib import Path

import torch

__all__ = ["configure", "isa", "isas", "load"]

# The variable names another build, such as the one with sanitizers.
_LIBRARY = Path(os.environ.get("BATCHNORM_LIBRARY") or Path(__file__).with_name("_kernels.so"))


@cache
def load(library: str = str(_LIBRARY)) -> str | None:
    """Register the kernels with torch; None, or the reason why it cannot be done. The schemas come first."""
    if not Path(library).exists():
        return "the CPU kernels were not built at installation (no C++ compiler, or no torch at build time)"
    try:
        torch.ops.load_library(library)
    except (OSError, RuntimeError) as error:
        return f"the CPU kernels do not load: {error}"
    return None


def isa() -> str:
    """The instruction set in use; only after `load`."""
    return torch.ops.batchnorm._cpu_info().split()[0]


def isas() -> tuple[str, ...]:
    """The instruction sets that this machine has, from plain to best; only after `load`."""
    return tuple(torch.ops.batchnorm._cpu_info().split()[1:])


def configure(isa: str = "", *, huge_page_bytes: int = -1, stream_bytes: int = -1) -> None:
    """Change how the kernels run; only after `load`.

    Args:
        isa: the instruction set, one of `isas()`; empty: the best there is.
        huge_page_bytes: outputs of at least this size are advised for huge pages (0: never; negative: no change).
        stream_bytes: outputs of at least this size are written past the caches (0: never; negative: no change).

    Raises:
        RuntimeError: this machine does not have the instruction set.
    """
    torch.ops.batchnorm._cpu_configure(isa, huge_page_bytes, stream_bytes)
