"""The constructor is torch's, with keyword-only choices after it."""

import inspect

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.core.errors import OptionError

NAMES = [f"{lazy}BatchNorm{d}d" for lazy in ("", "Lazy") for d in (1, 2, 3)]
CHOICES = ["activation", "estimate", "update_statistics"]


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs_then_our_choices(name):
    theirs = inspect.signature(getattr(nn, name).__init__).parameters
    ours = inspect.signature(getattr(bn, name).__init__).parameters
    assert list(ours) == [*theirs, *CHOICES]
    for parameter in theirs.values():
        assert ours[parameter.name].kind == parameter.kind, parameter.name
        assert ours[parameter.name].default == parameter.default, parameter.name
    assert all(ours[choice].kind is inspect.Parameter.KEYWORD_ONLY for choice in CHOICES)


@pytest.mark.parametrize("name", NAMES)
def test_is_a_subclass_of_torchs(name):
    assert issubclass(getattr(bn, name), getattr(nn, name))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_every_positional_argument_in_torchs_order(dims, bias):
    arguments = (5, 1e-3, 0.2, True, True, torch.device("cpu"), torch.float64)
    ours = getattr(bn, f"BatchNorm{dims}d")(*arguments, bias=bias)
    theirs = getattr(nn, f"BatchNorm{dims}d")(*arguments, bias=bias)
    assert (ours.num_features, ours.eps, ours.momentum) == (5, 1e-3, 0.2)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert ours.state_dict()[key].dtype == value.dtype, key
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)
    assert (ours.bias is None) == (theirs.bias is None)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracking", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_goes_both_ways(affine, tracking, bias):
    ours = bn.BatchNorm2d(3, affine=affine, track_running_stats=tracking, bias=bias, activation="relu")
    theirs = nn.BatchNorm2d(3, affine=affine, track_running_stats=tracking, bias=bias)
    for layer in (ours, theirs):
        layer(torch.randn(4, 3, 2, 2))
    fresh = bn.BatchNorm2d(3, affine=affine, track_running_stats=tracking, bias=bias, activation="relu")
    assert not any(fresh.load_state_dict(theirs.state_dict(), strict=True))
    for key, value in theirs.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key
    assert not any(theirs.load_state_dict(ours.state_dict(), strict=True))
    for key, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[key], value), key


def test_loads_a_state_dict_without_counter_as_torch_does():
    old = {k: v for k, v in nn.BatchNorm1d(2).state_dict().items() if k != "num_batches_tracked"}
    layer = bn.BatchNorm1d(2)
    layer.load_state_dict(old)
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("momentum", [0.0, 1.0, None])
def test_momentum_is_free_as_torchs(momentum):
    ours, theirs = bn.BatchNorm1d(3, momentum=momentum), nn.BatchNorm1d(3, momentum=momentum)
    for _ in range(3):
        x = torch.randn(6, 3)
        ours(x), theirs(x)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)


def test_wrong_estimate_says_what_it_may_be():
    with pytest.raises(
        OptionError, match=r"estimate must be None or a value such as Frozen\(\); got 'frozen'"
    ):
        bn.BatchNorm2d(3, estimate="frozen")


def test_the_class_of_an_estimate_is_not_an_estimate():
    with pytest.raises(OptionError, match="estimate must be"):
        bn.BatchNorm2d(3, estimate=bn.Frozen)


def test_frozen_without_running_statistics_is_refused():
    with pytest.raises(OptionError, match="track_running_stats=False, so there are none.*Leave"):
        bn.BatchNorm2d(3, track_running_stats=False, estimate=bn.Frozen())


@pytest.mark.parametrize("eps", [0.0, -1e-5])
def test_eps_that_is_not_positive(eps, backend):
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="eps must be positive during training") as theirs:
        nn.BatchNorm1d(3, eps=eps)(x)
    layer = bn.BatchNorm1d(3, eps=eps)
    with pytest.raises(type(theirs.value), match="eps must be positive during training"):
        layer(x)
    assert layer.num_batches_tracked == 0
    if eps == 0.0:
        torch.testing.assert_close(layer.eval()(x), nn.BatchNorm1d(3, eps=eps).eval()(x))
