"""Three switches stay apart: which statistics normalise, whether they update, whether scale and shift train."""

from itertools import product

import pytest
import torch

import batchnorm as bn

ALL = list(product([None, bn.Frozen()], [True, False], [True, False]))


def _layer(estimate, update, trains):
    layer = bn.BatchNorm1d(3, estimate=estimate, update_statistics=update)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    return layer.requires_grad_(trains)


def _normalised_by(layer, x):
    """Which statistics gave the output: those of the batch or the running ones."""
    with bn.hold_statistics(layer), torch.no_grad():
        y = layer(x)
    batch = torch.nn.functional.batch_norm(x, None, None, training=True)
    running = torch.nn.functional.batch_norm(x, layer.running_mean, layer.running_var)
    found = [
        name for name, wanted in (("batch", batch), ("running", running)) if (y - wanted).abs().max() < 1e-5
    ]
    assert len(found) == 1
    return found[0]


def _updates(layer, x):
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer(x)
    moved = {name for name, buffer in layer.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved in (set(), set(before))
    return bool(moved)


@pytest.mark.parametrize(("estimate", "update", "trains"), ALL, ids=str)
def test_each_switch_does_its_own_thing(estimate, update, trains, backend):
    layer, x = _layer(estimate, update, trains), torch.randn(16, 3) * 3 + 5
    frozen = estimate is not None
    for _ in range(2):
        layer.train()
        assert _normalised_by(layer, x) == ("running" if frozen else "batch")
        assert _updates(layer, x) == (update and not frozen)
        assert layer(x).requires_grad == trains
        layer.eval()
        assert _normalised_by(layer, x) == "running"
        assert not _updates(layer, x)
        assert layer(x).requires_grad == trains
        assert layer.update_statistics is update
        assert isinstance(layer.estimate, bn.Frozen) == frozen


@pytest.mark.parametrize(("estimate", "update", "trains"), ALL, ids=str)
def test_scale_and_shift_train_by_requires_grad_alone(estimate, update, trains, backend):
    layer, x = _layer(estimate, update, trains), torch.randn(16, 3, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert (layer.weight.grad is not None) == trains
    assert (layer.bias.grad is not None) == trains


def test_switches_can_be_set_later(backend):
    layer, x = bn.BatchNorm1d(3), torch.randn(16, 3) + 5
    layer.update_statistics = False
    assert not _updates(layer, x)
    assert _normalised_by(layer, x) == "batch"
    layer.update_statistics = True
    assert _updates(layer, x)
    layer.estimate = bn.Frozen()
    assert not _updates(layer, x)
    assert _normalised_by(layer, x) == "running"


def test_repr_of_the_default():
    assert repr(bn.BatchNorm2d(3)) == (
        "BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, "
        "estimate=BatchThenRunning(), update_statistics=True, requires_grad=True)"
    )


def test_repr_shows_the_three_switches():
    layer = bn.BatchNorm2d(3, activation="leaky_relu(0.2)", estimate=bn.Frozen(), update_statistics=False)
    assert repr(layer.requires_grad_(False)).endswith(
        "activation=leaky_relu(0.2), estimate=Frozen(), update_statistics=False, requires_grad=False)"
    )


def test_repr_without_parameters_has_no_third_switch():
    assert "requires_grad" not in repr(bn.BatchNorm2d(3, affine=False))


def test_the_switches_are_not_in_the_state_dict():
    layer = bn.BatchNorm2d(3, estimate=bn.Frozen(), update_statistics=False)
    assert list(layer.state_dict()) == list(torch.nn.BatchNorm2d(3).state_dict())
    layer.load_state_dict(torch.nn.BatchNorm2d(3).state_dict())
    assert isinstance(layer.estimate, bn.Frozen)


def test_eval_without_running_statistics_uses_the_batch_as_torch_does(backend):
    ours = bn.BatchNorm1d(3, track_running_stats=False).eval()
    theirs = torch.nn.BatchNorm1d(3, track_running_stats=False).eval()
    x = torch.randn(8, 3)
    torch.testing.assert_close(ours(x), theirs(x))
    assert _normalised_by(bn.BatchNorm1d(3).train(), x) == "batch"


def test_tracking_switched_off_later_is_torchs(backend):
    x, layers = torch.randn(8, 3) + 2, (bn.BatchNorm1d(3), torch.nn.BatchNorm1d(3))
    for layer in layers:
        layer(x)
        layer.track_running_stats = False
        layer(x * 2)
    ours, theirs = layers
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
