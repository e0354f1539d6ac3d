"""Autograd's own tools around a layer: saved-tensor hooks, anomaly mode, weights that change before backward."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import batchnorm as bn


def _pair(**options):
    ours = bn.BatchNorm2d(3, activation="relu", **options)
    return ours, copy.deepcopy(ours)


@pytest.mark.parametrize("tool", ["save_on_cpu", "anomaly", "pack and unpack"])
@pytest.mark.parametrize("training", [True, False])
def test_tools_change_nothing(training, tool, backend):
    layer, plain = _pair()
    layer.train(training), plain.train(training)
    x, r = torch.randn(2, 4, 3, 5, 5)
    context = {
        "save_on_cpu": torch.autograd.graph.save_on_cpu,
        "anomaly": torch.autograd.detect_anomaly,
        "pack and unpack": lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t),
    }[tool]
    gradients = []
    for module, around in ((layer, context), (plain, torch.enable_grad)):
        t = x.clone().requires_grad_()
        with (
            pytest.warns(UserWarning, match="Anomaly")
            if around is torch.autograd.detect_anomaly
            else around()
        ):
            if around is torch.autograd.detect_anomaly:
                with around():
                    module(t, r).square().sum().backward()
            else:
                module(t, r).square().sum().backward()
        gradients.append([t.grad, *(p.grad for p in module.parameters())])
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("save", [CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_RECOMPUTE])
def test_selective_checkpoint(save, backend):
    model = nn.Sequential(nn.Linear(4, 6), bn.BatchNorm1d(6, activation="relu"), nn.Linear(6, 2))
    plain = copy.deepcopy(model)
    a = torch.randn(8, 4).requires_grad_()
    b = a.detach().clone().requires_grad_()

    def policy(ctx, op, *args, **kwargs):
        return save if op is torch.ops.aten.addmm.default else CheckpointPolicy.PREFER_RECOMPUTE

    y = checkpoint(
        model, a, use_reentrant=False, context_fn=lambda: create_selective_checkpoint_contexts(policy)
    )
    y.square().sum().backward()
    plain(b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    assert model[1].num_batches_tracked == 1
    torch.testing.assert_close(model[1].running_var, plain[1].running_var)


@pytest.mark.parametrize("training", [True, False])
def test_a_weight_that_changed_before_backward_is_refused_as_torch_does(training, backend):
    for package in (nn, bn):
        layer, x = package.BatchNorm1d(3).train(training), torch.randn(8, 3, requires_grad=True)
        y = layer(x)
        with torch.no_grad():
            layer.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4, 0), (0, 3), (2, 3, 0), (0, 3, 0)], ids=str)
def test_nothing_to_normalise(shape, training, backend):
    results = []
    for package in (nn, bn):
        layer = package.BatchNorm1d(shape[1]).train(training)
        x = torch.randn(shape, requires_grad=True)
        try:
            y = layer(x)
            y.sum().backward()
            results.append(
                (y.shape, y.stride(), x.grad.shape, layer.weight.grad.tolist(), layer.running_var.tolist())
            )
        except (RuntimeError, ValueError, IndexError) as error:
            results.append(str(error)[:30])
    assert results[1] == results[0] or isinstance(results[0], str) or shape[-1] == 0 or shape[0] == 0
    if not isinstance(results[1], str) and shape[1]:
        # torch's own statistics of nothing are NaN; ours do not move.
        assert results[1][4] == [1.0] * shape[1]


def test_without_a_counter(backend):
    ours, theirs = bn.BatchNorm1d(3), nn.BatchNorm1d(3)
    x = torch.randn(8, 3)
    for layer in (ours, theirs):
        layer.num_batches_tracked = None
        layer(x)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    with bn.defer_statistics(ours) as pending:
        ours(x)
    pending.commit()


@pytest.mark.parametrize("block", ["hold", "defer"])
def test_blocks_reach_through_wrappers(block, backend):
    layer = bn.BatchNorm1d(3)
    wrapped = torch.compile(nn.Sequential(layer), backend="eager")
    x = torch.randn(8, 3)
    if block == "hold":
        with bn.hold_statistics(wrapped):
            layer(x)
        assert layer.num_batches_tracked == 0
    else:
        with bn.defer_statistics(wrapped) as pending:
            layer(x), layer(x)
        pending.commit()
        assert layer.num_batches_tracked == 1


def test_state_loaded_by_assignment_inside_a_block(backend):
    layer, x = bn.BatchNorm1d(3, momentum=1.0), torch.randn(8, 3)
    with bn.defer_statistics(layer) as pending:
        layer(x)
        layer.load_state_dict({k: v.clone() for k, v in layer.state_dict().items()}, assign=True)
    pending.commit()
    torch.testing.assert_close(layer.running_mean, x.mean(0))


def test_shallow_copy_shares_the_tensors_as_torchs(backend):
    layer = bn.BatchNorm1d(3)
    other = copy.copy(layer)
    other(torch.randn(8, 3))
    assert layer.num_batches_tracked == 1
    assert other.weight is layer.weight


class _Doubled(bn.BatchNorm1d):
    def __init__(self, features):
        super().__init__(features, activation="relu")
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, input):
        return super().forward(input) * self.gain


def test_a_users_subclass(backend):
    layer, x = _Doubled(3), torch.randn(8, 3)
    expected = 2 * torch.relu(nn.BatchNorm1d(3)(x))
    torch.testing.assert_close(layer(x), expected)
    assert copy.deepcopy(layer)(x).shape == x.shape
    assert "activation=relu" in repr(layer)
