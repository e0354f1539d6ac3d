"""`torch.compile(fullgraph=True)`: the same numbers, and no recompilation at every step.

Almost all on `aot_eager`: Inductor compiles C++ for minutes; one case an operator path goes through it.
"""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import batchnorm as bn

# Dynamo itself instantiates an autograd function while it traces one.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _compiled(model, **options):
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(model, backend=counter, fullgraph=True, **options), counter


def _model(**options):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), bn.BatchNorm2d(4, **options), nn.Conv2d(4, 2, 1), bn.BatchNorm2d(2, **options)
    )


def _step(call, model, batch):
    x = batch.clone().requires_grad_()
    model.zero_grad()
    y = call(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]


def _assert_same(model, reference, got, wanted):
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    _assert_same_state(model, reference)


def _assert_same_state(model, reference):
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_training_steps_are_the_eager_ones_in_one_graph(activation, momentum, backend):
    model = _model(activation=activation, momentum=momentum)
    reference = copy.deepcopy(model)
    call, counter = _compiled(model)
    for _ in range(5):
        batch = torch.randn(3, 2, 6, 6)
        _assert_same(model, reference, _step(call, model, batch), _step(reference, reference, batch))
    assert counter.frame_count == 1
    assert model[1].num_batches_tracked == 5


def test_evaluation(backend):
    model = _model(activation="relu").eval()
    reference = copy.deepcopy(model)
    call, counter = _compiled(model)
    batch = torch.randn(3, 2, 6, 6)
    _assert_same(model, reference, _step(call, model, batch), _step(reference, reference, batch))
    with torch.no_grad():
        torch.testing.assert_close(call(batch), reference(batch))
    # One with gradients, one without.
    assert counter.frame_count <= 2


def test_switching_modes_recompiles_once_each(backend):
    model = _model(activation="relu")
    reference = copy.deepcopy(model)
    call, counter = _compiled(model)
    for training in (True, False, True, False, True):
        model.train(training), reference.train(training)
        batch = torch.randn(3, 2, 6, 6)
        _assert_same(model, reference, _step(call, model, batch), _step(reference, reference, batch))
    assert counter.frame_count == 2


@pytest.mark.parametrize("dynamic", [True, None])
def test_batches_of_many_sizes_do_not_recompile_each(dynamic, backend):
    model = _model(activation="relu", momentum=None)
    reference = copy.deepcopy(model)
    call, counter = _compiled(model, dynamic=dynamic)
    known = 0
    for n in (3, 5, 8, 2, 7, 13, 4):
        batch = torch.randn(n, 2, 6, 6)
        _assert_same(model, reference, _step(call, model, batch), _step(reference, reference, batch))
        # The first sizes may teach the compiler which dimension varies; the others add nothing.
        known = counter.frame_count if n in (3, 5) else known
    assert counter.frame_count == known <= 2


@pytest.mark.parametrize("residual", ["same", "full", "broadcast", "bfloat16"])
def test_residual(residual, backend):
    layer = bn.BatchNorm2d(3, activation="relu")
    reference = copy.deepcopy(layer)
    call, _ = _compiled(layer)
    for _ in range(2):
        x = torch.randn(4, 3, 5, 5)
        r = {"same": x, "full": x * 2, "broadcast": x[:1, :, :1, :1].clone(), "bfloat16": x.bfloat16()}[
            residual
        ]
        torch.testing.assert_close(call(x, r), reference(x, r))
    _assert_same_state(layer, reference)


def test_channels_last_and_strides(backend):
    layer = bn.BatchNorm2d(8, activation="relu")
    call, _ = _compiled(layer)
    dense = torch.randn(4, 8, 5, 5)
    for x in (
        dense.contiguous(memory_format=torch.channels_last),
        dense,
        dense[:, :, ::2],
        dense[:1].expand(4, 8, 5, 5),
    ):
        with bn.hold_statistics(layer):
            expected = layer(x)
            y = call(x)
        torch.testing.assert_close(y, expected)
        assert y.stride() == expected.stride()


@pytest.mark.parametrize("context", [bn.hold_statistics, bn.defer_statistics])
def test_blocks_around_the_compiled_call_do_not_recompile_per_step(context, backend):
    model = _model()
    reference = copy.deepcopy(model)
    call, counter = _compiled(model)
    for _ in range(4):
        first, second = torch.randn(2, 3, 2, 6, 6)
        for module, run in ((model, call), (reference, reference)):
            run(first)
            with context(module) as pending:
                run(first), run(second)
            if pending is not None:
                pending.commit()
        _assert_same_state(model, reference)
    # One graph for each state that a layer can be in: plain, and held or deferred.
    assert counter.frame_count <= 2
    assert model[1].num_batches_tracked == (4 if context is bn.hold_statistics else 8)


def test_hold_inside_the_compiled_function(backend):
    model = _model()

    def step(x):
        y = model(x)
        with bn.hold_statistics(model):
            return y + model(x * 2)

    reference = copy.deepcopy(model)
    call, counter = _compiled(step)
    for _ in range(3):
        batch = torch.randn(3, 2, 6, 6)
        expected = reference(batch)
        with bn.hold_statistics(reference):
            expected = expected + reference(batch * 2)
        torch.testing.assert_close(call(batch), expected, rtol=1e-4, atol=1e-4)
        _assert_same_state(model, reference)
    assert counter.frame_count == 1


def test_switches_are_guarded(backend):
    layer = bn.BatchNorm1d(3)
    call, _ = _compiled(layer)
    x = torch.randn(8, 3) + 1
    call(x)
    layer.update_statistics = False
    before = layer.running_mean.clone()
    call(x)
    assert torch.equal(layer.running_mean, before)
    layer.estimate = bn.Frozen()
    torch.testing.assert_close(
        call(x), torch.nn.functional.batch_norm(x, layer.running_mean, layer.running_var)
    )


def test_statistics_that_are_not_finite_are_skipped(backend):
    layer = bn.BatchNorm1d(3)
    call, counter = _compiled(layer)
    x = torch.randn(8, 3)
    call(x)
    mean = layer.running_mean.clone()
    x[0, 1] = float("nan")
    assert call(x)[:, 1].isnan().all()
    assert layer.running_mean[1] == mean[1]
    assert (layer.running_mean != mean).sum() == 2
    assert counter.frame_count == 1


@pytest.mark.parametrize("reentrant", [True, False])
def test_compiled_layer_inside_an_eager_checkpoint(reentrant, backend):
    model = _model(activation="relu")
    reference = copy.deepcopy(model)
    call, counter = _compiled(model)
    for _ in range(2):
        batch = torch.randn(3, 2, 6, 6)
        got = _step(lambda x: checkpoint(call, x, use_reentrant=reentrant), model, batch)
        _assert_same(model, reference, got, _step(reference, reference, batch))
    assert model[1].num_batches_tracked == 2
    assert counter.frame_count <= 2


def test_checkpoint_inside_the_compiled_function(backend):
    model = _model(activation="relu")
    reference = copy.deepcopy(model)
    call, _ = _compiled(lambda x: checkpoint(model, x, use_reentrant=False))
    for _ in range(2):
        batch = torch.randn(3, 2, 6, 6)
        _assert_same(model, reference, _step(call, model, batch), _step(reference, reference, batch))
    assert model[1].num_batches_tracked == 2


def test_functional_and_its_pure_twin(backend):
    x, mean, var = torch.randn(8, 3) + 1, torch.zeros(3), torch.ones(3)
    pure, _ = _compiled(
        lambda x, m, v: bn.functional.batch_norm_with_statistics(x, m, v, training=True, activation="relu")
    )
    y, new_mean, new_var = pure(x, mean, var)
    assert torch.equal(mean, torch.zeros(3))
    writing, _ = _compiled(
        lambda x, m, v: bn.functional.batch_norm(x, m, v, training=True, activation="relu")
    )
    torch.testing.assert_close(writing(x, mean, var), y)
    torch.testing.assert_close((mean, var), (new_mean, new_var))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_graph_break_is_no_obstacle(backend):
    model = _model()
    reference = copy.deepcopy(model)

    def step(x):
        x = model[1](model[0](x))
        torch._dynamo.graph_break()
        return model[3](model[2](x))

    call = torch.compile(step, backend="aot_eager")
    batch = torch.randn(3, 2, 6, 6)
    _assert_same(model, reference, _step(call, model, batch), _step(reference, reference, batch))


def test_error_under_compile_says_the_same(backend):
    layer = bn.BatchNorm1d(3)
    call, _ = _compiled(layer)
    with pytest.raises(Exception, match="Expected more than 1 value per channel"):
        call(torch.randn(1, 3))
    assert layer.num_batches_tracked == 0


def test_double_backward_under_compile_is_right_or_refused(backend):
    """AOTAutograd has no double backward at all: never a wrong value."""
    layer = bn.BatchNorm1d(3).double()
    call, _ = _compiled(layer)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    y = call(x)
    with contextlib.suppress(RuntimeError):
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        (wanted,) = torch.autograd.grad(nn.BatchNorm1d(3).double()(x).pow(3).sum(), x, create_graph=True)
        torch.testing.assert_close(second, torch.autograd.grad(wanted.square().sum(), x)[0])


@pytest.mark.slow
def test_compiled_autograd(backend):
    model = _model(activation="relu")
    reference = copy.deepcopy(model)
    batch = torch.randn(3, 2, 6, 6)
    with torch._dynamo.config.patch(compiled_autograd=True):
        call, _ = _compiled(lambda x: checkpoint(model, x, use_reentrant=False))
        got = _step(call, model, batch)
    _assert_same(model, reference, got, _step(reference, reference, batch))


def test_inductor_training_with_residual(backend):
    layer = bn.BatchNorm2d(4, activation="relu")
    reference = copy.deepcopy(layer)
    call = torch.compile(layer, fullgraph=True)
    x = torch.randn(3, 4, 6, 6)
    _assert_same(
        layer,
        reference,
        _step(lambda t: call(t, x), layer, x),
        _step(lambda t: reference(t, x), reference, x),
    )


def test_inductor_evaluation(backend):
    layer = bn.BatchNorm2d(4, activation="silu").eval()
    call = torch.compile(layer, fullgraph=True)
    x = torch.randn(3, 4, 6, 6)
    torch.testing.assert_close(call(x), layer(x), rtol=1e-4, atol=1e-4)


def test_defer_inside_the_compiled_function(backend):
    model = _model()

    def step(first, second):
        with bn.defer_statistics(model) as pending:
            y = model(first) + model(second)
        pending.commit()
        return y

    reference = copy.deepcopy(model)
    call, counter = _compiled(step)
    for _ in range(3):
        batches = torch.randn(2, 3, 2, 6, 6)
        with bn.defer_statistics(reference) as pending:
            expected = reference(batches[0]) + reference(batches[1])
        pending.commit()
        torch.testing.assert_close(call(*batches), expected, rtol=1e-4, atol=1e-4)
        _assert_same_state(model, reference)
    assert counter.frame_count == 1
