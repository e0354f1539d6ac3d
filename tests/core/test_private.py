"""torch still has the private names that we rely on, and they still mean what we take them to mean."""

import torch
from torch.autograd import forward_ad

from batchnorm.core import private


def test_inside_backward():
    seen = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            seen.append(private.inside_backward())
            return x.clone()

        @staticmethod
        def backward(ctx, dy):
            seen.append(private.inside_backward())
            return dy

    Probe.apply(torch.ones(1, requires_grad=True)).backward()
    assert seen == [False, True]
    assert not private.inside_backward()


def test_inside_backward_of_a_recomputation():
    seen = []

    def forward(x):
        seen.append(private.inside_backward())
        return x.square()

    for reentrant in (True, False):
        seen.clear()
        x = torch.ones(1, requires_grad=True)
        torch.utils.checkpoint.checkpoint(forward, x, use_reentrant=reentrant).backward()
        assert seen == [False, True]


def test_functorch_active():
    seen = []

    def function(x):
        seen.append(private.functorch_active())
        return x.sum()

    function(torch.ones(2))
    torch.func.grad(function)(torch.ones(2))
    torch.vmap(function)(torch.ones(2, 2))
    assert seen == [False, True, True]


def test_forward_ad_active():
    assert not private.forward_ad_active()
    with forward_ad.dual_level():
        assert private.forward_ad_active()
    assert not private.forward_ad_active()
