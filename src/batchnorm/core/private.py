"""Every private torch name that we rely on, one function each.

`tests/core/test_private.py` fails when torch drops one.
"""

import torch
from torch.autograd import forward_ad

__all__ = ["forward_ad_active", "functorch_active", "inside_backward"]


def inside_backward() -> bool:
    """Whether a backward pass runs on this thread, as it does around the recomputation of a checkpoint."""
    return torch._C._current_graph_task_id() != -1


def functorch_active() -> bool:
    """Whether a `torch.func` transform (vmap, grad, jvp, …) surrounds this call."""
    return torch._C._are_functorch_transforms_active()


def forward_ad_active() -> bool:
    """Whether a forward-mode differentiation level is open."""
    return forward_ad._current_level >= 0
