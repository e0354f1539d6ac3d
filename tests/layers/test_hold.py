"""`hold_statistics`: forwards that update nothing."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.core.errors import StatisticsError


def _model(**options):
    return nn.Sequential(
        nn.Linear(4, 3), bn.BatchNorm1d(3, **options), nn.ReLU(), bn.BatchNorm1d(3, **options)
    )


def _state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def _same(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_nothing_moves_and_outputs_are_the_same(momentum, backend):
    model, x = _model(momentum=momentum), torch.randn(8, 4)
    expected = model(x)
    before = _state(model)
    with bn.hold_statistics(model):
        held = model(x)
        held.sum().backward()
    assert _same(model, before)
    assert torch.equal(held, expected)
    assert model[0].weight.grad is not None
    model(x)
    assert model[1].num_batches_tracked == 2


def test_train_and_eval_inside_change_nothing(backend):
    model, x = _model(), torch.randn(8, 4)
    before = _state(model)
    with bn.hold_statistics(model):
        model.eval()
        model(x)
        model.train()
        model(x)
    assert _same(model, before)


def test_blocks_nest(backend):
    model, x = _model(), torch.randn(8, 4)
    before = _state(model)
    with bn.hold_statistics(model):
        with bn.hold_statistics(model[1]):
            model(x)
        model(x)
    assert _same(model, before)
    model(x)
    assert not _same(model, before)


def test_of_a_part_holds_that_part(backend):
    model, x = _model(), torch.randn(8, 4)
    with bn.hold_statistics(model[1]):
        model(x)
    assert model[1].num_batches_tracked == 0
    assert model[3].num_batches_tracked == 1


def test_exception_ends_it(backend):
    model, x = _model(), torch.randn(8, 4)
    with pytest.raises(KeyError), bn.hold_statistics(model):
        raise KeyError
    model(x)
    assert model[1].num_batches_tracked == 1


def test_a_layer_that_appears_twice_is_held_once(backend):
    layer = bn.BatchNorm1d(3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    with bn.hold_statistics(model):
        model(torch.randn(8, 3))
    model(torch.randn(8, 3))
    assert layer.num_batches_tracked == 2


def test_copies_made_inside_are_not_held(backend):
    import copy
    import pickle

    model = _model()
    with bn.hold_statistics(model):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for other in copies:
            other(torch.randn(8, 4))
            assert other[1].num_batches_tracked == 1
    assert model[1].num_batches_tracked == 0


@pytest.mark.parametrize("context", [bn.hold_statistics, bn.defer_statistics])
@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "no batch norm layer"),
        (nn.Sequential(bn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(2))), r"1\.0: BatchNorm1d"),
        (nn.BatchNorm1d(2), "the model itself: BatchNorm1d"),
    ],
    ids=["none", "mixed", "torch's"],
)
def test_a_model_with_other_layers_is_refused_by_path(context, model, found):
    with pytest.raises(StatisticsError, match=rf"{found}.*Build the model with batchnorm"), context(model):
        raise AssertionError("the block must not run")


@pytest.mark.parametrize("context", [bn.hold_statistics, bn.defer_statistics])
def test_a_layer_of_torchs_without_statistics_is_no_obstacle(context, recwarn):
    model = nn.Sequential(bn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    with context(model):
        pass
