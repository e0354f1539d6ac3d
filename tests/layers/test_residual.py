"""`forward(input, residual)`: act(bn(input) + residual), for any residual that torch could add."""

import pytest
import torch
from torch import nn

import batchnorm as bn

SHAPE = (4, 3, 5, 5)
BROADCAST = [(1, 3, 5, 5), (4, 1, 5, 5), (3, 1, 1), (5,), (), (2, 4, 3, 5, 5)]


def _compare(ours, theirs, activation, x, residual):
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    r, s = residual.clone().requires_grad_(), residual.clone().requires_grad_()
    y, expected = ours(a, r), activation(theirs(b) + s)
    assert y.dtype == expected.dtype
    # A sum in float64 still has the rounding of a float32 input.
    rounding = {"rtol": 1e-5, "atol": 1e-5} if x.dtype == torch.float32 and y.dtype == torch.float64 else {}
    torch.testing.assert_close(y, expected, **rounding)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(r.grad, s.grad, **rounding)
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, their.grad)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [SHAPE, *BROADCAST], ids=str)
def test_residual_as_torch_adds_it(shape, training, activation, backend):
    ours = bn.BatchNorm2d(3, dtype=torch.float64, activation=activation).train(training)
    theirs = nn.BatchNorm2d(3, dtype=torch.float64).train(training)
    follow = {None: nn.Identity(), "relu": nn.ReLU(), "silu": nn.SiLU()}[activation]
    _compare(
        ours, theirs, follow, torch.randn(SHAPE, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_residual_of_another_dtype_promotes_as_torchs(dtype, backend):
    ours, theirs = bn.BatchNorm2d(3, activation="relu"), nn.BatchNorm2d(3)
    _compare(ours, theirs, nn.ReLU(), torch.randn(SHAPE), torch.randn(SHAPE).to(dtype))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_residual_in_another_layout(memory_format, backend):
    ours, theirs = bn.BatchNorm2d(3, activation="relu"), nn.BatchNorm2d(3)
    other = torch.channels_last if memory_format is torch.contiguous_format else torch.contiguous_format
    x = torch.randn(SHAPE).contiguous(memory_format=memory_format)
    residual = torch.randn(SHAPE).contiguous(memory_format=other)
    _compare(ours, theirs, nn.ReLU(), x, residual)
    assert ours(x, residual).is_contiguous(memory_format=memory_format)


def test_expanded_residual(backend):
    ours, theirs = bn.BatchNorm2d(3, activation="relu"), nn.BatchNorm2d(3)
    x, one = torch.randn(SHAPE), torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(ours(x, one.expand(SHAPE)), torch.relu(theirs(x) + one))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu(0.2)", "silu", "tanh"])
def test_the_same_tensor_twice(activation, training, backend):
    ours = bn.BatchNorm2d(3, dtype=torch.float64, activation=activation).train(training)
    theirs = nn.BatchNorm2d(3, dtype=torch.float64).train(training)
    a = torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    y, expected = ours(a, a), ours.activation(theirs(b) + b)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, a, dy), torch.autograd.grad(expected, b, dy))


def test_residual_that_does_not_fit_is_torchs_error_and_leaves_no_trace(backend):
    layer = bn.BatchNorm2d(3, activation="relu")
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with pytest.raises(RuntimeError, match="size of tensor a"):
        layer(torch.randn(SHAPE), torch.randn(4, 3, 5, 6))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("needs", ["input", "residual", "weight"])
def test_only_one_needs_a_gradient(needs, backend):
    layer = bn.BatchNorm2d(3, activation="relu").requires_grad_(False)
    x, r = torch.randn(SHAPE), torch.randn(SHAPE)
    leaf = {"input": x, "residual": r, "weight": layer.weight}[needs].requires_grad_()
    reference = nn.BatchNorm2d(3)
    expected = torch.relu(reference(x) + r)
    wanted = reference.weight if needs == "weight" else leaf
    (actual,) = torch.autograd.grad(layer(x, r).sum(), leaf)
    torch.testing.assert_close(actual, torch.autograd.grad(expected.sum(), wanted)[0])
