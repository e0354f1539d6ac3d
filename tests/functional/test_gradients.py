"""First and second derivatives by finite differences, in float64, through our operators and through torch's."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import batchnorm as bn
from support import cases

BACKENDS = ("kernel", "native")


def function(activation, training, with_residual, given):
    def call(x, weight, bias, residual=None):
        statistics = (None, None) if training else (given.mean, given.var)
        return bn.functional.batch_norm(
            x, *statistics, weight, bias, training, residual=residual, activation=activation, eps=1e-3
        )

    def tensor(size, offset=0.0):
        generator = torch.Generator().manual_seed(3)
        t = torch.randn(size, generator=generator, dtype=torch.float64) + offset
        return t.requires_grad_()

    inputs = [given.x, tensor(given.x.size(1)), tensor(given.x.size(1), 0.3)]
    return call, inputs + ([given.residual] if with_residual else [])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("with_residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_gradcheck_and_gradgradcheck(activation, with_residual, training, backend):
    call, inputs = function(
        activation, training, with_residual, well_scaled(activation, with_residual, training)
    )
    with bn.functional.backend(backend):
        before = bn.functional.calls.copy()
        assert gradcheck(call, inputs, eps=1e-6, atol=1e-6, rtol=1e-4, nondet_tol=1e-12)
        assert gradgradcheck(call, inputs, eps=1e-6, atol=1e-5, rtol=1e-4, nondet_tol=1e-12)
        assert set(bn.functional.calls - before) == {backend}


def well_scaled(activation, with_residual, training):
    """Ordinary values without pre-activations near a jump, with the parameters that `function` draws."""
    generator = torch.Generator().manual_seed(3)
    draw = torch.randn(2, generator=generator, dtype=torch.float64)
    for seed in range(200):
        random = torch.Generator().manual_seed(seed)
        x, r = (torch.randn(3, 2, 2, 1, generator=random, dtype=torch.float64) for _ in range(2))
        statistics = (
            (None, None)
            if training
            else (torch.tensor([0.1, -0.2]).double(), torch.tensor([0.9, 1.2]).double())
        )
        weight, bias = draw, draw + 0.3
        z = cases.oracle.batch_norm(x, weight, bias, *statistics, r if with_residual else None, eps=1e-3).z
        kinks = cases.oracle.KINKS.get(activation, ())
        if all(((z - kink).abs() > 0.02).all() for kink in kinks):
            leaves = x.requires_grad_(), r.requires_grad_()
            return cases.Tensors(leaves[0], weight, bias, *statistics, leaves[1], torch.empty(0))
    raise RuntimeError("no input without pre-activations near a jump was found")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_the_same_tensor_as_input_and_residual(activation, backend):
    """Its two gradients add up."""
    x = well_scaled(activation, True, True).x
    kinks = cases.oracle.KINKS.get(activation, ())
    z = cases.oracle.batch_norm(x, residual=x).z
    if any(((z - kink).abs() < 1e-3).any() for kink in kinks):
        x = (x.detach() + 0.01).requires_grad_()
    with bn.functional.backend(backend):
        assert gradcheck(
            lambda t: bn.functional.batch_norm(
                t, None, None, training=True, residual=t, activation=activation
            ),
            x,
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_penalty(backend):
    """The usual double backward: a penalty on the input gradient's norm, as torch's layer has it."""
    found = {}
    for name, module in (
        ("ours", bn.BatchNorm1d(3, dtype=torch.float64)),
        ("torch", torch.nn.BatchNorm1d(3).double()),
    ):
        x = torch.randn(
            8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        ).requires_grad_()
        with bn.functional.backend(backend):
            y = torch.tanh(module(x)).pow(2).sum()
            (g,) = torch.autograd.grad(y, x, create_graph=True)
            (g.norm() - 1).square().backward()
        found[name] = x.grad, module.weight.grad, module.bias.grad
    for mine, his in zip(found["ours"], found["torch"], strict=True):
        torch.testing.assert_close(mine, his, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("slope", [0.2, 1 / 3])
def test_double_backward_has_the_slope_in_full_precision(slope):
    x, r = (torch.randn(6, 2, dtype=torch.float64).requires_grad_() for _ in range(2))
    with bn.functional.backend("kernel"):
        y = bn.functional.batch_norm(
            x, None, None, training=True, residual=r, activation=f"leaky_relu({slope!r})"
        )
        (with_graph,) = torch.autograd.grad(y.square().sum(), r, create_graph=True, retain_graph=True)
        (without,) = torch.autograd.grad(y.square().sum(), r)
    torch.testing.assert_close(with_graph, without, rtol=1e-14, atol=0)
