"""Double backward: a gradient of a gradient is torch's, in float64, for every activation; never silently wrong."""

from itertools import product

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.core.activation import ACTIVATIONS

NAMES = [name if name != "leaky_relu" else "leaky_relu(0.2)" for name in ACTIVATIONS]
CASES = list(product(NAMES, ["none", "full", "broadcast", "same"], [True, False]))


def _pair(activation, training, shape=(5, 3, 2, 2), **options):
    ours = bn.BatchNorm2d(3, dtype=torch.float64, activation=activation, **options).train(training)
    theirs = nn.BatchNorm2d(3, dtype=torch.float64, **options).train(training)
    with torch.no_grad():
        for tensors in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            if tensors[0].is_floating_point():
                tensors[0].uniform_(0.5, 1.5)
                tensors[1].copy_(tensors[0])
    x = torch.randn(shape, dtype=torch.float64) * 2
    return ours, lambda x, r: ours.activation(theirs(x) if r is None else theirs(x) + r), theirs, x


def _second_order(call, parameters, x, residual, power):
    """The gradient of a penalty on the gradient, for all that has one, and the penalty's value."""
    x = x.clone().requires_grad_()
    r = x if residual == "same" else residual if residual is None else residual.clone().requires_grad_()
    y = call(x, r)
    leaves = [x, *parameters] + ([r] if r is not None and r is not x else [])
    first = torch.autograd.grad((y**power).sum(), leaves, create_graph=True)
    penalty = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(penalty, leaves, allow_unused=True)
    return (
        penalty,
        first,
        [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(second, leaves, strict=True)],
    )


@pytest.mark.parametrize(("activation", "residual", "training"), CASES, ids=str)
def test_gradient_penalty_is_torchs(activation, residual, training, backend):
    ours, reference, theirs, x = _pair(activation, training)
    r = {
        "none": None,
        "full": torch.randn_like(x),
        "broadcast": torch.randn(3, 1, 1, dtype=torch.float64),
        "same": "same",
    }[residual]
    # A cubic loss: its gradient depends on y, so that every term of the second derivative takes part.
    penalty, first, second = _second_order(ours, list(ours.parameters()), x, r, 3)
    expected, wanted_first, wanted_second = _second_order(reference, list(theirs.parameters()), x, r, 3)
    torch.testing.assert_close(penalty, expected, rtol=1e-10, atol=1e-10)
    for got, wanted in zip(first + tuple(second), wanted_first + tuple(wanted_second), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ["none", "silu"])
def test_gradgradcheck(activation, training, affine, backend):
    ours, _, _, x = _pair(activation, training, affine=affine, track_running_stats=not training)
    x = x[:3, :, :1].clone().requires_grad_()
    residual = torch.randn_like(x).requires_grad_()
    assert torch.autograd.gradcheck(ours, (x, residual))
    assert torch.autograd.gradgradcheck(ours, (x, residual))


def test_three_times(backend):
    ours, reference, _, x = _pair("tanh", True)
    results = []
    for call in (ours, reference):
        t = x.clone().requires_grad_()
        value = call(t, None).pow(3).sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, t, create_graph=True)
            value = gradient.pow(2).sum()
        results.append(value)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "residual"])
@pytest.mark.parametrize("create_graph", [True, False])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_partial_inputs(activation, create_graph, wanted, backend):
    ours, reference, theirs, x = _pair(activation, True)
    r = torch.randn_like(x)
    results = []
    for call, layer in ((ours, ours), (reference, theirs)):
        leaves = {"x": x.clone().requires_grad_(), "weight": layer.weight, "bias": layer.bias}
        leaves["residual"] = r.clone().requires_grad_()
        y = call(leaves["x"], leaves["residual"])
        (first,) = torch.autograd.grad(y.pow(3).sum(), leaves[wanted], create_graph=create_graph)
        results.append([first])
        if create_graph:
            results[-1] += torch.autograd.grad(first.square().sum(), [leaves["x"], layer.weight])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_gradient_of_only_the_incoming_gradient(backend):
    """Forward-over-reverse by the double-backward trick: the derivative with respect to dy."""
    ours, reference, _, x = _pair("relu", True)
    results = []
    for call in (ours, reference):
        t, dy = x.clone().requires_grad_(), torch.ones_like(x).requires_grad_()
        (gradient,) = torch.autograd.grad(call(t, None), t, dy, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), dy))
    torch.testing.assert_close(*results)


def test_frozen_layer(backend):
    layer = bn.BatchNorm2d(3, dtype=torch.float64, activation="relu", estimate=bn.Frozen())
    theirs = nn.BatchNorm2d(3, dtype=torch.float64).eval()
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    got = _second_order(layer, list(layer.parameters()), x, None, 3)
    wanted = _second_order(lambda x, r: torch.relu(theirs(x)), list(theirs.parameters()), x, None, 3)
    torch.testing.assert_close(got, wanted)


def test_wgan_penalty_in_float32_and_optimizer_step(backend):
    """The loop of a gradient-penalty GAN: the update of the weights is torch's."""

    def train(package):
        torch.manual_seed(0)
        critic = nn.Sequential(nn.Linear(4, 8), package.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).double()
        optimizer = torch.optim.SGD(critic.parameters(), 0.1)
        for _ in range(3):
            x = torch.randn(16, 4, dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
            loss = (gradient.norm(dim=1) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return critic

    for got, wanted in zip(train(bn).parameters(), train(nn).parameters(), strict=True):
        torch.testing.assert_close(got, wanted)
