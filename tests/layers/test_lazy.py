"""Lazy layers take the number of features from their first input, and become the others."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.core.errors import StatisticsError

SHAPES = {1: (4, 3), 2: (4, 3, 2, 2), 3: (4, 3, 2, 2, 2)}


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracking", [True, False])
def test_becomes_the_layer(dims, affine, tracking, backend):
    x = torch.randn(SHAPES[dims])
    lazy = getattr(bn, f"LazyBatchNorm{dims}d")(1e-3, 0.2, affine, tracking, activation="relu")
    theirs = getattr(nn, f"BatchNorm{dims}d")(3, 1e-3, 0.2, affine, tracking)
    torch.testing.assert_close(lazy(x), torch.relu(theirs(x)))
    assert type(lazy) is getattr(bn, f"BatchNorm{dims}d")
    assert list(lazy.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(lazy.state_dict()[key], value, msg=key)


def test_keeps_its_choices(backend):
    lazy = bn.LazyBatchNorm2d(activation="leaky_relu(0.2)", estimate=bn.Frozen(), update_statistics=False)
    assert "estimate=Frozen()" in repr(lazy)
    lazy(torch.randn(SHAPES[2]))
    assert "activation=leaky_relu(0.2), estimate=Frozen(), update_statistics=False" in repr(lazy)
    assert torch.equal(lazy.running_var, torch.ones(3))


def test_first_call_with_a_residual(backend):
    lazy, x = bn.LazyBatchNorm2d(activation="relu"), torch.randn(SHAPES[2])
    torch.testing.assert_close(lazy(x, x), torch.relu(nn.BatchNorm2d(3)(x) + x))
    assert bn.LazyBatchNorm2d()(x, residual=x).shape == x.shape


def test_bias_false():
    lazy = bn.LazyBatchNorm1d(bias=False)
    lazy(torch.randn(4, 3))
    assert lazy.bias is None
    assert lazy.weight.shape == (3,)


def test_reset_parameters_of_a_frozen_layer_initialises_its_statistics_too():
    layer = bn.BatchNorm2d(3, estimate=bn.Frozen(), device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))
    assert layer.num_batches_tracked == 0
    assert layer.estimate == bn.Frozen()


def test_state_dict_of_a_layer_before_the_first_call():
    other = bn.LazyBatchNorm1d(activation="tanh")
    other(torch.randn(4, 3))
    target = bn.LazyBatchNorm1d()
    target.load_state_dict(other.state_dict())
    assert target.running_mean.shape == (3,)


@pytest.mark.parametrize("context", [bn.hold_statistics, bn.defer_statistics])
def test_first_forward_inside_a_block(context, backend):
    model = nn.Sequential(bn.LazyBatchNorm1d(momentum=1.0))
    x = torch.randn(8, 3)
    if context is bn.hold_statistics:
        with context(model):
            model(x)
        assert model[0].num_batches_tracked == 0
        model(x)
        assert model[0].num_batches_tracked == 1
    else:
        # What is collected needs a size.
        with pytest.raises(StatisticsError, match=r"0: LazyBatchNorm1d.*first forward"), context(model):
            raise AssertionError("the block must not run")
        model(x)
        assert model[0].num_batches_tracked == 1
