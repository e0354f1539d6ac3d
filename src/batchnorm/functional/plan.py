"""Which code computes a call, and why: decided from shapes, dtypes and devices only, before anything runs."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from batchnorm import kernels
from batchnorm.core import private
from batchnorm.core.errors import BackendError, OptionError

__all__ = ["Plan", "backend", "calls", "choose", "exporting", "fits", "usual"]

BACKENDS: Final = ("auto", "kernel", "native")

# How often each path ran in eager mode, so that a test or a user can prove which code ran.
calls: Final[Counter[str]] = Counter()

_forced = "auto"


@dataclass(frozen=True)
class Plan:
    """The path of a call: "kernel" (our operators) or "native" (torch's own batch norm), with the reason."""

    path: str
    reason: str


_TRANSFORM: Final = Plan(
    "native", "a torch.func transform or forward-mode AD is active: torch's formula has all derivatives"
)
_FORCED_NATIVE: Final = Plan("native", 'backend("native") asks for it')
_FORCED_KERNEL: Final = Plan("kernel", 'backend("kernel") asks for it')
_UNUSUAL: Final = Plan("native", "the dtypes, shapes or devices of the tensors are not a combination of ours")
_NO_KERNELS: Final = Plan("native", "there are no kernels of ours for this device")
_KERNEL: Final = Plan("kernel", "there are kernels of ours for this device")
_META: Final = Plan("native", "the input has no storage")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Make every call inside run on the named backend, or raise.

    Args:
        name: "kernel" (our operators; the plain reference beneath them where a device has no kernels of ours),
            "native" (torch's own batch norm) or "auto".

    Raises:
        OptionError: another name.
        BackendError: at a call that the named backend cannot do.
    """
    global _forced
    if name not in BACKENDS:
        raise OptionError(f"backend must be one of {', '.join(map(repr, BACKENDS))}; got {name!r}.")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


# What a parameter or buffer may be, by the input's dtype: the input's own, or float32 beside a 16-bit input.
_PARAMETER_DTYPES: Final = {
    torch.float32: (torch.float32,),
    torch.float64: (torch.float64,),
    torch.bfloat16: (torch.bfloat16, torch.float32),
    torch.float16: (torch.float16, torch.float32),
}


def usual(x: Tensor, vectors: tuple[Tensor | None, ...]) -> bool:
    """Whether the vectors are (C) with a dtype and device that batch norm accepts beside `x`."""
    allowed = _PARAMETER_DTYPES.get(x.dtype)
    if allowed is None or x.dim() < 2:
        return False
    shape, device = x.shape[1:2], x.device
    for v in vectors:
        if v is not None and not (v.dtype in allowed and v.shape == shape and v.device == device):
            return False
    return True


def fits(x: Tensor, residual: Tensor | None) -> bool:
    """Whether the residual can be added in the same pass: x's shape, dtype and device."""
    return residual is None or (
        residual.shape == x.shape and residual.dtype == x.dtype and residual.device == x.device
    )


def exporting() -> bool:
    """Whether a program is being recorded that must show torch's own operations and load without this package."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def choose(x: Tensor, *vectors: Tensor | None) -> Plan:
    """The plan of a call on input `x` with these parameters and buffers.

    Raises:
        BackendError: the backend named by `backend(...)` cannot do this call.
    """
    automatic = _choose(x, vectors)
    if _forced == "auto":
        return automatic
    if _forced == "native":
        return automatic if automatic.path == "native" else _FORCED_NATIVE
    if automatic in (_TRANSFORM, _UNUSUAL, _META):
        raise BackendError(
            f'backend("kernel") cannot do this call: {automatic.reason}; got input {tuple(x.shape)} {x.dtype} on '
            f'{x.device}. Use backend("auto") or backend("native").'
        )
    return _FORCED_KERNEL


def _choose(x: Tensor, vectors: tuple[Tensor | None, ...]) -> Plan:
    if private.functorch_active() or private.forward_ad_active():
        return _TRANSFORM
    if not usual(x, vectors):
        return _UNUSUAL
    if kernels.available("cpu" if x.is_cpu else x.device.type):
        return _KERNEL
    return _META if x.is_meta else _NO_KERNELS
