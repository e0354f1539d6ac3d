"""Pains with running statistics: they move when they should not, or are ruined.

Where torch has the bug its case is a strict xfail: when torch mends it the test fails, and the claim about it goes.
"""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from support.pains import TORCH, whose


def _state(module):
    return copy.deepcopy(module.state_dict())


def _unchanged(module, state):
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


@whose("`model.train()` undoes `bn.eval()`, and `requires_grad` does not stop statistics")
def test_pain_02_freezing_does_not_hold(layers, whose):
    norm = layers.BatchNorm1d(3) if whose == TORCH else layers.BatchNorm1d(3, estimate=bn.Frozen())
    model = nn.Sequential(nn.Linear(3, 3), norm)
    norm.requires_grad_(False)
    norm.eval()
    before = _state(norm)
    model.train()
    model(torch.randn(8, 3) + 5)
    assert _unchanged(norm, before)


@whose("one overflow ruins the running statistics for good, while GradScaler skips the step")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pain_03_one_overflow_poisons_the_statistics(layers, bad):
    layer, x = layers.BatchNorm1d(3), torch.randn(8, 3)
    layer(x)
    x[2, 1] = bad
    assert layer(x)[:, 1].isnan().any()
    assert layer.running_mean.isfinite().all()
    assert layer.running_var.isfinite().all()
    assert layer.eval()(torch.randn(8, 3)).isfinite().all()


@whose("a variance that has no place in float16 becomes infinite in the buffer")
def test_pain_03_half_precision_variance_overflows(layers):
    layer = layers.BatchNorm1d(1).half()
    layer(torch.tensor([[1000.0], [-1000.0]] * 8, dtype=torch.half))
    assert layer.running_var.isfinite().all()


@whose("the recomputation updates them again")
@pytest.mark.parametrize("reentrant", [True, False])
def test_pain_07_checkpointing_updates_twice(layers, reentrant):
    layer = layers.BatchNorm1d(3)
    plain = copy.deepcopy(layer)
    x = torch.randn(8, 3, requires_grad=True)
    plain(x)
    checkpoint(layer, x, use_reentrant=reentrant).sum().backward()
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(layer.running_mean, plain.running_mean)


@whose(
    "evaluation keeps the live statistics for backward, and the update in place does not change their version"
)
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 6, 6)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_pain_09_evaluation_then_training_then_backward_is_silently_wrong(layers, shape, channels_last):
    layer = (layers.BatchNorm1d if len(shape) == 2 else layers.BatchNorm2d)(3)
    x = torch.randn(shape)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    reference = copy.deepcopy(layer).eval()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    reference(a).square().sum().backward()
    y = layer.eval()(b)
    layer.train()(x * 3 + 5)
    y.square().sum().backward()
    torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(layer.weight.grad, reference.weight.grad)


@whose()
@pytest.mark.parametrize("training", [True, False])
def test_pain_09_two_forwards_before_a_backward(layers, training):
    """torch had this bug; it stays a regression test. Under DDP itself: tests/works_under/test_distributed.py."""
    layer = layers.BatchNorm1d(3).train(training)
    x = torch.randn(8, 3, requires_grad=True)
    loss = layer(x).square().sum() + layer(x * 2).square().sum()
    for buffer in layer.buffers():
        with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(buffer):
            buffer.mul_(2)
    loss.backward()
    if training:
        assert x.grad.isfinite().all()


@whose("each micro-batch moves them")
def test_pain_14_gradient_accumulation_is_not_a_bigger_batch(layers, whose):
    layer, batches = layers.BatchNorm1d(3), list(torch.randn(4, 8, 3) + torch.arange(4.0).view(4, 1, 1))
    if whose == TORCH:
        for batch in batches:
            layer(batch)
    else:
        with bn.defer_statistics(layer) as pending:
            for batch in batches:
                layer(batch)
        pending.commit()
    big = nn.BatchNorm1d(3)
    big(torch.cat(batches))
    assert layer.num_batches_tracked == big.num_batches_tracked
    torch.testing.assert_close(layer.running_mean, big.running_mean)
    torch.testing.assert_close(layer.running_var, big.running_var)


@whose("there is no forward that leaves the statistics of a training layer alone")
def test_pain_15_a_second_pass_of_a_gan_moves_the_statistics(layers, whose):
    layer, real, fake = layers.BatchNorm1d(3), torch.randn(8, 3), torch.randn(8, 3) + 4
    layer(real)
    before = _state(layer)
    if whose == TORCH:
        layer(fake)
    else:
        with bn.hold_statistics(layer):
            layer(fake)
    assert _unchanged(layer, before)


@whose("the counter moves before the call fails")
def test_a_call_that_fails_changes_the_state(layers):
    layer = layers.BatchNorm1d(3)
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        layer(torch.randn(1, 3))
    assert layer.num_batches_tracked == 0
