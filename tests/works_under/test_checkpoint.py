"""`torch.utils.checkpoint`: a recomputation does not update the statistics again, and gives the same gradients."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import batchnorm as bn


def _plain(model, x):
    return model(x)


def _non_reentrant(model, x):
    return checkpoint(model, x, use_reentrant=False)


def _reentrant(model, x):
    return checkpoint(model, x, use_reentrant=True)


def _nested(model, x, inner, outer):
    return checkpoint(
        lambda t: model[2:](checkpoint(model[:2], t, use_reentrant=inner)), x, use_reentrant=outer
    )


def _sequential(reentrant):
    return lambda model, x: checkpoint_sequential(model, 2, x, use_reentrant=reentrant)


KINDS = {
    "non-reentrant": _non_reentrant,
    "reentrant": _reentrant,
    "nested non-reentrant": lambda model, x: _nested(model, x, False, False),
    "nested reentrant": lambda model, x: _nested(model, x, True, True),
    "reentrant in non-reentrant": lambda model, x: _nested(model, x, True, False),
    "non-reentrant in reentrant": lambda model, x: _nested(model, x, False, True),
    "sequential non-reentrant": _sequential(False),
    "sequential reentrant": _sequential(True),
    "without early stop": lambda model, x: checkpoint(model, x, use_reentrant=False, early_stop=False),
}


def _model(**options):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(4, 6),
        bn.BatchNorm1d(6, activation="relu", **options),
        nn.Linear(6, 5),
        bn.BatchNorm1d(5, **options),
    ).double()


def _backward(loss):
    loss.backward()


def _backward_elsewhere(loss):
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def _train(model, run, batches, backward=_backward):
    gradients = []
    for batch in batches:
        x = batch.clone().requires_grad_()
        model.zero_grad()
        backward(run(model, x).square().sum())
        gradients += [x.grad, *(p.grad.clone() for p in model.parameters())]
    return gradients


def _batches():
    return [torch.randn(n, 4, dtype=torch.float64) + 1 for n in (8, 3, 5)]


def _assert_same(model, reference, gradients, expected, counter=3):
    for got, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, wanted)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, msg=lambda text, key=key: f"{key}: {text}")
    assert model[1].num_batches_tracked == counter


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_update_once(kind, momentum, backend):
    model, batches = _model(momentum=momentum), _batches()
    reference = copy.deepcopy(model)
    expected = _train(reference, _plain, batches)
    _assert_same(model, reference, _train(model, KINDS[kind], batches), expected)


@pytest.mark.parametrize("kind", ["non-reentrant", "reentrant"])
def test_backward_in_another_thread(kind, backend):
    model, batches = _model(), _batches()
    reference = copy.deepcopy(model)
    expected = _train(reference, _plain, batches)
    _assert_same(model, reference, _train(model, KINDS[kind], batches, _backward_elsewhere), expected)


@pytest.mark.parametrize("create_graph", [True, False])
def test_gradients_by_autograd_grad(create_graph, backend):
    model, (x, *_) = _model(), _batches()
    x.requires_grad_()
    reference = copy.deepcopy(model)
    wanted = torch.autograd.grad(reference(x).square().sum(), [x, *reference.parameters()])
    got = torch.autograd.grad(
        _non_reentrant(model, x).square().sum(), [x, *model.parameters()], create_graph=create_graph
    )
    _assert_same(model, reference, got, wanted, counter=1)


@pytest.mark.parametrize("kind", ["non-reentrant", "reentrant", "nested reentrant"])
@pytest.mark.parametrize("context", [bn.hold_statistics, bn.defer_statistics])
@pytest.mark.parametrize("backward_inside", [True, False])
def test_inside_hold_and_defer(context, kind, backward_inside, backend):
    model, (batch, *_) = _model(), _batches()
    reference = copy.deepcopy(model)
    x = batch.clone().requires_grad_()
    with context(model) as pending:
        loss = KINDS[kind](model, x).square().sum()
        if backward_inside:
            loss.backward()
    # The tensors that are saved must not depend on the block: the recomputation may run after it.
    if not backward_inside:
        loss.backward()
    if pending is not None:
        pending.commit()
        reference(batch)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, msg=key)


@pytest.mark.parametrize("kind", ["non-reentrant", "reentrant"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_first_forward_without_gradients_updates(kind, backend):
    model, (x, *_) = _model(), _batches()
    reference = copy.deepcopy(model)
    with torch.no_grad():
        KINDS[kind](model, x)
        reference(x)
    _assert_same(model, reference, [], [], counter=1)


@pytest.mark.parametrize("kind", ["non-reentrant", "reentrant"])
def test_same_layer_twice_in_one_region(kind, backend):
    layer = bn.BatchNorm1d(4).double()
    model = nn.Sequential(nn.Linear(4, 4).double(), layer, nn.Tanh(), layer)
    reference, batches = copy.deepcopy(model), _batches()
    expected = _train(reference, _plain, batches)
    _assert_same(model, reference, _train(model, KINDS[kind], batches), expected, counter=6)


@pytest.mark.parametrize("kind", ["non-reentrant", "reentrant"])
def test_residual_and_kept_bits(kind, backend):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = bn.BatchNorm1d(4, activation="relu").double()

        def forward(self, x):
            return self.norm(x * 2, x)

    model, (x, *_) = Block(), _batches()
    x.requires_grad_()
    reference = copy.deepcopy(model)
    y, expected = KINDS[kind](model, x), reference(x)
    dy = torch.randn_like(y)
    (wanted,) = torch.autograd.grad(expected, x, dy)
    y.backward(dy)
    torch.testing.assert_close(x.grad, wanted)
    assert model.norm.num_batches_tracked == 1
