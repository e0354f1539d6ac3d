"""One forward, one update: what a training forward writes, and when it writes nothing."""

import pytest
import torch
from torch import nn

import batchnorm as bn


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_channel_that_is_not_finite_is_skipped_whole(bad, momentum, backend):
    layer = bn.BatchNorm1d(3, momentum=momentum)
    x = torch.randn(8, 3)
    layer(x)
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    x[3, 1] = bad
    y, expected = layer(x), nn.BatchNorm1d(3)(x)
    # Its output is as torch's: NaN is not hidden.
    assert torch.equal(y.isnan(), expected.isnan())
    assert layer.running_mean[1] == mean[1]
    assert layer.running_var[1] == var[1]
    assert (layer.running_mean != mean)[[0, 2]].all() or momentum is None
    assert layer.num_batches_tracked == 2


@pytest.mark.parametrize("buffers", [torch.float16, torch.bfloat16, torch.float32])
def test_finite_in_the_buffers_dtype_decides(buffers, backend):
    layer = bn.BatchNorm1d(2, dtype=buffers, momentum=1.0)
    x = torch.tensor(
        [[1000.0, 1.0], [-1000.0, 2.0]], dtype=torch.float16 if buffers is not torch.bfloat16 else buffers
    )
    layer(x)
    # A variance of 2e6 has no place in float16; the mean beside it (0) then does not move either.
    assert layer.running_var.isfinite().all()
    if buffers is torch.float16:
        assert layer.running_var[0] == 1
    else:
        assert layer.running_var[0] > 1e6
    assert layer.running_var[1] == 0.5
    assert layer.running_mean.isfinite().all()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_empty_batch_counts_and_moves_nothing(momentum, backend):
    layer = bn.BatchNorm2d(3, momentum=momentum)
    y = layer(torch.randn(0, 3, 4, 4))
    assert y.shape == (0, 3, 4, 4)
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))
    assert layer.num_batches_tracked == 1


def test_empty_batch_has_zero_gradients(backend):
    layer, x = bn.BatchNorm2d(3), torch.randn(0, 3, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert torch.equal(layer.weight.grad, torch.zeros(3))
    assert torch.equal(layer.bias.grad, torch.zeros(3))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_updates_with_and_without_gradients(context, backend):
    ours, theirs = bn.BatchNorm1d(3), nn.BatchNorm1d(3)
    x = torch.randn(8, 3) + 1
    with context():
        torch.testing.assert_close(ours(x), theirs(x))
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)


def test_a_forward_inside_a_backward_does_not_update(backend):
    layer, x = bn.BatchNorm1d(3), torch.randn(8, 3, requires_grad=True)
    y = x * 2
    y.register_hook(lambda gradient: layer(x.detach()) * 0 + gradient)
    y.sum().backward()
    assert layer.num_batches_tracked == 0
    layer(x)
    assert layer.num_batches_tracked == 1


def test_buffers_of_their_own_dtype(backend):
    """bfloat16 parameters beside float32 buffers, as FSDP's mixed precision leaves them."""
    layer = bn.BatchNorm1d(3)
    for name in ("weight", "bias"):
        setattr(layer, name, nn.Parameter(getattr(layer, name).bfloat16()))
    x = torch.randn(16, 3, dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    assert layer.running_mean.dtype == torch.float32
    assert layer.weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(layer.running_mean, 0.1 * x.detach().float().mean(0))


def test_strided_buffers_are_written(backend):
    layer = bn.BatchNorm1d(3)
    storage = torch.zeros(3, 2)
    layer.running_mean = storage[:, 0]
    x = torch.randn(8, 3)
    layer(x)
    torch.testing.assert_close(storage[:, 0], 0.1 * x.mean(0))
    assert torch.equal(storage[:, 1], torch.zeros(3))
