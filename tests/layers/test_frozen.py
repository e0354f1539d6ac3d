"""`Frozen()`: the running statistics normalise, in training too, and nothing moves them."""

import logging

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import batchnorm as bn


def _frozen(**options):
    layer = bn.BatchNorm2d(3, estimate=bn.Frozen(), **options)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    return layer


def test_forward_and_gradient_are_evaluations(backend):
    layer, x = _frozen(activation="relu"), torch.randn(4, 3, 5, 5)
    theirs = nn.BatchNorm2d(3).eval()
    theirs.load_state_dict(layer.state_dict())
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = layer.train()(a), torch.relu(theirs(b))
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(layer.weight.grad, theirs.weight.grad)


def test_survives_train_of_the_whole_model(backend):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), _frozen())
    before = {key: value.clone() for key, value in model[1].state_dict().items()}
    for _ in range(3):
        model.eval()
        model.train()
        model(torch.randn(4, 2, 5, 5))
    assert all(torch.equal(value, before[key]) for key, value in model[1].state_dict().items())


def test_one_value_per_channel_is_fine(backend):
    x = torch.randn(1, 3, 1, 1)
    layer = _frozen().train()
    torch.testing.assert_close(layer(x), layer.eval()(x))


def test_new_layer_starts_with_statistics():
    layer = bn.BatchNorm2d(3, estimate=bn.Frozen())
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))
    assert layer.num_batches_tracked == 0


def test_reset_keeps_the_statistics_and_logs(caplog):
    layer = _frozen()
    mean = layer.running_mean.clone()
    with caplog.at_level(logging.INFO, "batchnorm"):
        layer.reset_running_stats()
    assert torch.equal(layer.running_mean, mean)
    assert "reset_running_stats of BatchNorm2d(estimate=Frozen()) does nothing" in caplog.text


def test_reset_of_the_default_layer_resets():
    layer = bn.BatchNorm2d(3)
    layer(torch.randn(4, 3, 2, 2) + 3)
    layer.reset_running_stats()
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("cls", ["Frozen", "default"])
def test_update_bn_measures_the_default_and_keeps_the_frozen(cls, caplog, backend):
    layer = _frozen() if cls == "Frozen" else bn.BatchNorm2d(3)
    model = nn.Sequential(layer).train()
    mean = layer.running_mean.clone()
    batches = [torch.randn(4, 3, 5, 5) + 7 for _ in range(3)]
    with caplog.at_level(logging.INFO, "batchnorm"):
        update_bn(batches, model)
    assert layer.momentum == 0.1
    if cls == "Frozen":
        assert torch.equal(layer.running_mean, mean)
        assert layer.num_batches_tracked == 0
        assert "does nothing" in caplog.text
    else:
        reference = nn.Sequential(nn.BatchNorm2d(3))
        update_bn(batches, reference)
        torch.testing.assert_close(layer.running_mean, reference[0].running_mean)
        torch.testing.assert_close(layer.running_var, reference[0].running_var)
        assert layer.num_batches_tracked == 3
