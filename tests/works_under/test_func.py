"""`torch.func`: as far as torch's own layer goes, with the same result; where torch refuses, ours refuses too."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import batchnorm as bn

# torch's own, at the first forward-mode derivative of a process.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

STATES = {
    "train": {},
    "train, no statistics": {"track_running_stats": False},
    "eval": {},
    "train, momentum None": {"momentum": None},
}


def _layers(state, activation=None):
    layers = []
    for package, extra in ((bn, {"activation": activation}), (nn, {})):
        layer = package.BatchNorm1d(3, dtype=torch.float64, **STATES[state], **extra)
        layers.append(layer.train(state != "eval"))
    return layers


def _outcome(call):
    """The result, or the error."""
    try:
        return call(), None
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return None, error


def _jvp(layer, x):
    return jvp(layer, (x,), (torch.ones_like(x),))


def _hessian(layer, x):
    return hessian(lambda t: layer(t).pow(3).sum())(x)


def _jvp_of_grad(layer, x):
    return jvp(grad(lambda t: layer(t).pow(3).sum()), (x,), (torch.ones_like(x),))


def _per_sample_grad(layer, x):
    names = dict(layer.named_parameters())
    buffers = dict(layer.named_buffers())

    def loss(parameters, sample):
        return functional_call(layer, (parameters, buffers), (sample,)).pow(3).sum()

    return vmap(grad(loss), in_dims=(None, 0))(names, torch.stack([x, x * 2]))


TRANSFORMS = {
    "grad": lambda layer, x: grad(lambda t: layer(t).pow(3).sum())(x),
    "grad of grad": lambda layer, x: grad(lambda t: grad(lambda s: layer(s).pow(3).sum())(t).square().sum())(
        x
    ),
    "vjp": lambda layer, x: vjp(layer, x)[1](torch.ones_like(x)),
    "jvp": _jvp,
    "vmap": lambda layer, x: vmap(layer)(torch.stack([x, x * 2])),
    "jacrev": lambda layer, x: jacrev(layer)(x),
    "jacfwd": lambda layer, x: jacfwd(layer)(x),
    "hessian": _hessian,
    "jvp of grad": _jvp_of_grad,
    "per-sample grad": _per_sample_grad,
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_same_result_or_an_error_where_torch_has_one(transform, state):
    ours, theirs = _layers(state)
    x = torch.randn(4, 3, dtype=torch.float64)
    expected, torchs = _outcome(lambda: TRANSFORMS[transform](theirs, x.clone()))
    actual, error = _outcome(lambda: TRANSFORMS[transform](ours, x.clone()))
    if torchs is None:
        if error is not None:
            raise error
        torch.testing.assert_close(actual, expected)
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value, msg=key)
    elif error is None:
        # More than torch: the result must then be that of the statistics-free layer.
        torch.testing.assert_close(
            actual, TRANSFORMS[transform](_layers("train, no statistics")[1], x.clone())
        )
    else:
        assert isinstance(error, type(torchs)), (error, torchs)


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap", "hessian", "jvp of grad"])
@pytest.mark.parametrize("state", ["eval", "train, no statistics"])
def test_with_an_activation(state, transform, activation):
    ours, theirs = _layers(state, activation)
    x = torch.randn(4, 3, dtype=torch.float64)
    follow = ours.activation
    expected = TRANSFORMS[transform](
        nn.Sequential(theirs, {"relu": nn.ReLU(), "silu": nn.SiLU(), "gelu": nn.GELU()}[activation]), x
    )
    torch.testing.assert_close(TRANSFORMS[transform](ours, x), expected)
    assert str(follow) == activation


@pytest.mark.parametrize("momentum", [0.1, None])
def test_functional_call_commits_into_the_passed_buffers(momentum, backend):
    layer, theirs = bn.BatchNorm1d(3, momentum=momentum), nn.BatchNorm1d(3, momentum=momentum)
    x = torch.randn(8, 3) + 2
    results = []
    for module in (layer, theirs):
        state = {key: value.detach().clone() for key, value in module.state_dict().items()}
        for _ in range(2):
            y = functional_call(module, state, (x,))
        results.append((y, state))
    torch.testing.assert_close(results[0][0], results[1][0])
    for key, value in results[1][1].items():
        torch.testing.assert_close(results[0][1][key], value, msg=key)
    assert layer.num_batches_tracked == 0
    assert torch.equal(layer.running_mean, torch.zeros(3))


def test_functional_call_inside_hold(backend):
    layer = bn.BatchNorm1d(3)
    state = {key: value.detach().clone() for key, value in layer.state_dict().items()}
    with bn.hold_statistics(layer):
        functional_call(layer, state, (torch.randn(8, 3),))
    assert state["num_batches_tracked"] == 0


def test_ensemble_by_vmap_updates_each_models_statistics():
    x = torch.randn(8, 3, dtype=torch.float64)
    results = []
    for package in (bn, nn):
        models = []
        for seed in range(3):
            torch.manual_seed(seed)
            models.append(nn.Sequential(nn.Linear(3, 4), package.BatchNorm1d(4)).double())
        parameters, buffers = stack_module_state(models)
        y = vmap(lambda p, b, model=models[0]: functional_call(model, (p, b), (x,)))(parameters, buffers)
        results.append((y.detach(), buffers))
    torch.testing.assert_close(results[0], results[1])
    assert results[0][1]["1.num_batches_tracked"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("batched", [True, False])
def test_pure_function_under_vmap(batched):
    """New statistics come back, so that nothing captured is written."""
    x = torch.randn(2, 6, 3, dtype=torch.float64) + 1
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    if batched:
        mean, var = mean.expand(2, 3), var.expand(2, 3)

    def step(x, mean, var):
        return bn.functional.batch_norm_with_statistics(x, mean, var, training=True, activation="relu")

    y, new_mean, new_var = vmap(step, in_dims=(0, 0, 0) if batched else (0, None, None))(x, mean, var)
    for i in range(2):
        expected = step(x[i], torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
        torch.testing.assert_close((y[i], new_mean[i], new_var[i]), expected)


def test_pure_function_under_grad_of_vmap_and_jacrev():
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    mean, var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)

    def loss(x):
        y, _, _ = bn.functional.batch_norm_with_statistics(x, mean, var, training=True)
        return y.pow(3).sum()

    expected = torch.stack([torch.autograd.functional.jacobian(loss, sample) for sample in x])
    torch.testing.assert_close(vmap(grad(loss))(x), expected)
    torch.testing.assert_close(jacrev(lambda x: vmap(loss)(x).sum())(x), expected)


def test_forward_mode_ad(backend):
    if backend == "kernel":
        pytest.skip("a named backend refuses it: tests/layers/test_errors.py")
    ours, theirs = _layers("train")
    x, t = torch.randn(2, 6, 3, dtype=torch.float64)
    results = []
    for layer in (ours, theirs):
        with torch.autograd.forward_ad.dual_level():
            y = layer(torch.autograd.forward_ad.make_dual(x, t))
            results.append(torch.autograd.forward_ad.unpack_dual(y).tangent.clone())
    torch.testing.assert_close(*results)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)
