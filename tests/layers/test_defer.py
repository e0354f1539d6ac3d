"""`defer_statistics`: several forwards, one update; or none."""

import copy
import gc
import pickle
import warnings

import pytest
import torch
from torch import nn

import batchnorm as bn

MEAN, VAR, COUNTER = "running_mean", "running_var", "num_batches_tracked"


def _layer(**options):
    return bn.BatchNorm2d(3, dtype=torch.float64, **options)


def _state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def _close(model, other):
    for key, value in other.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, msg=lambda text, key=key: f"{key}: {text}")


def _forwards(pending):
    """How many forwards wait, of the layer that has most."""
    return max(int(accumulators[0, 0]) for accumulators in pending._accumulators())


def _batches(*sizes):
    return [torch.randn(n, 3, 2, 2, dtype=torch.float64) * (i + 1) + i for i, n in enumerate(sizes)]


@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0, None])
@pytest.mark.parametrize("inside", [True, False])
def test_commit_is_one_update_as_of_the_concatenated_batch(momentum, inside, backend):
    layer, whole = _layer(momentum=momentum), nn.BatchNorm2d(3, dtype=torch.float64, momentum=momentum)
    for round_ in range(2):
        batches = _batches(5, 1, 8 + round_)
        with bn.defer_statistics(layer) as pending:
            for batch in batches:
                layer(batch)
            assert layer.num_batches_tracked == round_
            assert _forwards(pending) == 3
            if inside:
                pending.commit()
                assert _forwards(pending) == 0
                _close(layer, (whole(torch.cat(batches)), whole)[1])
        if not inside:
            pending.commit()
            whole(torch.cat(batches))
        _close(layer, whole)
        assert layer.num_batches_tracked == round_ + 1


def test_outputs_and_gradients_are_those_without_it(backend):
    plain = _layer(activation="relu")
    deferred = copy.deepcopy(plain)
    (x,) = _batches(4)
    expected = plain(x)
    expected.square().sum().backward()
    with bn.defer_statistics(deferred) as pending:
        y = deferred(x)
        y.square().sum().backward()
    pending.discard()
    assert torch.equal(y, expected)
    assert torch.equal(plain.weight.grad, deferred.weight.grad)


def test_discard_forgets(backend):
    layer = _layer()
    before = _state(layer)
    with bn.defer_statistics(layer) as pending:
        layer(*_batches(4))
    pending.discard()
    pending.commit()
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_second_commit_does_nothing(backend):
    layer = _layer()
    with bn.defer_statistics(layer) as pending:
        layer(*_batches(4))
    pending.commit()
    before = _state(layer)
    pending.commit()
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_commit_of_no_forward_does_nothing():
    layer = _layer()
    with bn.defer_statistics(layer) as pending:
        pass
    pending.commit()
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_exception_discards_and_leaves_the_layer_usable(error, recwarn, backend):
    layer = _layer()
    before = _state(layer)
    kept = []

    def step():
        with bn.defer_statistics(layer) as pending:
            kept.append(pending)
            layer(*_batches(4))
            raise error

    pytest.raises(error, step)
    assert _forwards(kept[0]) == 0
    kept[0].commit()
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    layer(*_batches(4))
    assert layer.num_batches_tracked == 1
    kept.clear()
    gc.collect()
    assert not recwarn.list


def test_a_dropped_pending_warns(backend):
    layer = _layer()
    with bn.defer_statistics(layer) as pending:
        layer(*_batches(4))
    with pytest.warns(
        UserWarning, match=r"1 forward\(s\) were deferred and then dropped.*pending\.commit\(\)"
    ):
        del pending
        gc.collect()
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("ending", ["commit", "discard", "empty"])
def test_a_finished_pending_is_silent(ending, backend):
    layer = _layer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with bn.defer_statistics(layer) as pending:
            if ending != "empty":
                layer(*_batches(4))
        if ending != "empty":
            getattr(pending, ending)()
        del pending
        gc.collect()


def test_the_inner_of_two_blocks_collects(backend):
    layer, first, second, third = _layer(momentum=1.0), *_batches(4, 5, 6)
    with bn.defer_statistics(layer) as outer:
        layer(first)
        with bn.defer_statistics(layer) as inner:
            layer(second)
        layer(third)
    assert (_forwards(outer), _forwards(inner)) == (2, 1)
    inner.commit()
    torch.testing.assert_close(layer.running_mean, second.mean((0, 2, 3)))
    outer.commit()
    torch.testing.assert_close(layer.running_mean, torch.cat((first, third)).mean((0, 2, 3)))
    assert layer.num_batches_tracked == 2


@pytest.mark.parametrize("order", ["hold inside defer", "defer inside hold"])
def test_hold_wins(order, backend):
    layer, first, second = _layer(momentum=1.0), *_batches(4, 5)
    if order == "hold inside defer":
        with bn.defer_statistics(layer) as pending:
            layer(first)
            with bn.hold_statistics(layer):
                layer(second)
        assert _forwards(pending) == 1
        pending.commit()
        torch.testing.assert_close(layer.running_mean, first.mean((0, 2, 3)))
    else:
        with bn.hold_statistics(layer), bn.defer_statistics(layer) as pending:
            layer(first)
        assert _forwards(pending) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_forwards_that_are_not_finite_are_left_out_per_channel(bad, backend):
    layer, good, poisoned = _layer(momentum=1.0), *_batches(4, 5)
    rest = torch.cat((good, poisoned))
    poisoned[1, 2, 0, 1] = bad
    with bn.defer_statistics(layer) as pending:
        layer(poisoned), layer(good)
    assert _forwards(pending) == 2
    pending.commit()
    torch.testing.assert_close(layer.running_mean[:2], rest.mean((0, 2, 3))[:2])
    torch.testing.assert_close(layer.running_mean[2], good.mean((0, 2, 3))[2])
    torch.testing.assert_close(layer.running_var[:2], rest.transpose(0, 1).flatten(1).var(1)[:2])
    torch.testing.assert_close(layer.running_var[2], good.transpose(0, 1).flatten(1).var(1)[2])
    assert layer.num_batches_tracked == 1


def test_only_forwards_that_are_not_finite_still_count(backend):
    layer, (x,) = _layer(), _batches(4)
    with bn.defer_statistics(layer) as pending:
        layer(x * float("nan"))
    pending.commit()
    assert torch.equal(layer.running_mean, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(layer.running_var, torch.ones(3, dtype=torch.float64))
    assert layer.num_batches_tracked == 1


def test_eval_frozen_and_switched_off_forwards_are_not_collected(backend):
    model = nn.Sequential(_layer(), _layer(estimate=bn.Frozen()), _layer(update_statistics=False))
    (x,) = _batches(4)
    with bn.defer_statistics(model) as pending:
        model.eval()(x)
        assert _forwards(pending) == 0
        model.train()(x)
    pending.commit()
    assert [layer.num_batches_tracked.item() for layer in model] == [1, 0, 0]


def test_a_layer_without_statistics_is_left_alone(backend):
    model = nn.Sequential(_layer(track_running_stats=False), _layer())
    with bn.defer_statistics(model) as pending:
        model(*_batches(4))
    pending.commit()
    assert model[1].num_batches_tracked == 1


def test_empty_batches(backend):
    layer, (x,) = _layer(momentum=1.0), _batches(4)
    with bn.defer_statistics(layer) as pending:
        layer(x[:0])
    pending.commit()
    assert layer.num_batches_tracked == 1
    assert torch.equal(layer.running_var, torch.ones(3, dtype=torch.float64))
    with bn.defer_statistics(layer) as pending:
        layer(x[:0]), layer(x), layer(x[:0])
    pending.commit()
    assert layer.num_batches_tracked == 2
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)))


def test_a_forward_that_raises_is_not_collected(backend):
    layer, (x,) = _layer(), _batches(4)
    with bn.defer_statistics(layer) as pending:
        pytest.raises(ValueError, layer, x[:1, :, :1, :1])
        pytest.raises(RuntimeError, layer, x, torch.zeros(7))
        layer(x)
    assert _forwards(pending) == 1
    pending.commit()
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("buffers", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_input_is_merged_in_high_precision(buffers, backend):
    layer = bn.BatchNorm1d(3, momentum=1.0, dtype=buffers)
    x = torch.randn(64, 3, dtype=torch.bfloat16 if buffers == torch.float32 else buffers) * 2 + 3
    with bn.defer_statistics(layer) as pending:
        for part in x.split(8):
            layer(part)
    pending.commit()
    torch.testing.assert_close(layer.running_mean, x.double().mean(0).to(buffers))
    torch.testing.assert_close(layer.running_var, x.double().var(0).to(buffers))


def test_moves_with_the_layer(backend):
    layer, first, second = _layer(momentum=1.0), *_batches(4, 5)
    with bn.defer_statistics(layer) as pending:
        layer(first)
        layer.float()
        layer(second.float())
    pending.commit()
    assert layer.running_mean.dtype == torch.float32
    torch.testing.assert_close(layer.running_mean, torch.cat((first, second)).mean((0, 2, 3)).float())


def test_to_another_device_inside(backend):
    layer = _layer()
    with bn.defer_statistics(layer) as pending:
        layer.to("meta")
        assert layer._pending.is_meta
        layer.to_empty(device="cpu")
        layer.reset_running_stats()
        pending.discard()
        with torch.no_grad():
            layer.weight.fill_(1), layer.bias.zero_()
        layer(*_batches(4))
    pending.commit()
    assert layer.num_batches_tracked == 1


def test_copies_made_inside_are_outside(backend):
    layer, (x,) = _layer(), _batches(4)
    with bn.defer_statistics(layer) as pending:
        layer(x)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert other.num_batches_tracked == 0
            other(x)
            assert other.num_batches_tracked == 1
    assert _forwards(pending) == 1
    pending.discard()


def test_several_layers_each_get_their_own(backend):
    model = nn.Sequential(_layer(), nn.ReLU(), _layer())
    reference = copy.deepcopy(model)
    (x,) = _batches(8)
    with bn.defer_statistics(model) as pending:
        model(x)
    pending.commit()
    reference(x)
    _close(model, reference)


def test_buffers_stay_the_same_objects(backend):
    layer = _layer()
    before = dict(layer.named_buffers())
    with bn.defer_statistics(layer) as pending:
        layer(*_batches(4))
        assert list(dict(layer.named_buffers())) == list(before)
    pending.commit()
    assert all(buffer is before[name] for name, buffer in layer.named_buffers())


def test_pain_free_amp_step(backend):
    """A skipped step discards, a good one commits: the loop of the documentation."""
    layer, (x,) = _layer(), _batches(8)
    for scale, finite in ((1.0, True), (float("inf"), False), (1.0, True)):
        with bn.defer_statistics(layer) as pending:
            loss = (layer(x) * scale).sum()
        pending.commit() if loss.isfinite() else pending.discard()
        assert bool(loss.isfinite()) == finite
    assert layer.num_batches_tracked == 2
