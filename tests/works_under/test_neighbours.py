"""Tools around a layer: SWA, EMA, SyncBatchNorm conversion, quantisation, fusion, autocast, threads, hooks."""

import copy
import inspect
import threading

import pytest
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import AveragedModel, update_bn

import batchnorm as bn
from batchnorm.core.errors import ConversionError

CHOICES = [{"activation": "relu"}, {"estimate": bn.Frozen()}, {"update_statistics": False}]


def _model(package=bn, **options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), package.BatchNorm1d(3, **options), nn.ReLU(), nn.Linear(3, 2))


def test_update_bn_recomputes_the_statistics(backend):
    ours, theirs = _model(), _model(nn)
    batches = [torch.randn(8, 4) + i for i in range(4)]
    for model in (ours, theirs):
        update_bn(batches, model)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)
    assert ours[1].momentum == 0.1


@pytest.mark.parametrize("buffers", [True, False])
def test_averaged_model(buffers, backend):
    results = []
    for package in (bn, nn):
        model = _model(package)
        averaged = AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=buffers
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for step in range(3):
            torch.manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().sum().backward()
            optimizer.step()
            averaged.update_parameters(model)
        averaged.eval()
        results.append((averaged(torch.ones(2, 4)).detach(), dict(averaged.state_dict())))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_sync_conversion_of_the_default_layer(backend):
    model = _model()
    model(torch.randn(8, 4))
    state = copy.deepcopy(model.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted[1], nn.SyncBatchNorm | bn.BatchNorm1d)
    for key, value in converted.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_sync_conversion_never_loses_a_choice_silently(options):
    model = _model(**options)
    try:
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    except ConversionError as error:
        assert next(iter(options)) in str(error)
        assert "start from a fresh model" in str(error)
    else:
        assert converted[1] is model[1]
        assert repr(converted[1]) == repr(model[1])


@pytest.mark.parametrize("options", [{}, *CHOICES], ids=str)
def test_hasattr_getattr_and_assignment_of_qconfig(options):
    layer = bn.BatchNorm1d(3, **options)
    if not options:
        assert not hasattr(layer, "qconfig")
        assert getattr(layer, "qconfig", 7) == 7
    layer.qconfig = None
    assert layer.qconfig is None
    assert copy.deepcopy(layer).qconfig is None
    del layer.qconfig
    assert "qconfig" not in dir(layer)
    assert "forward" in dict(inspect.getmembers(layer))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_fx_quantisation_sees_a_leaf():
    model = _model().eval()
    prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping(), (torch.randn(2, 4),))
    assert any(isinstance(module, bn.BatchNorm1d) for module in prepared.modules())


def test_fusion_into_a_convolution_keeps_the_normalisation_and_drops_the_activation(backend):
    """A limit of torch's helper, documented: it reads a layer's tensors only."""
    conv = nn.Conv2d(2, 3, 1).eval()
    x = torch.randn(4, 2, 5, 5)
    plain, with_relu = bn.BatchNorm2d(3).eval(), bn.BatchNorm2d(3, activation="relu").eval()
    torch.testing.assert_close(fuse_conv_bn_eval(conv, plain)(x), plain(conv(x)))
    fused = fuse_conv_bn_eval(conv, with_relu)(x)
    assert (fused < 0).any()
    torch.testing.assert_close(fused.relu(), with_relu(conv(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("residual", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_autocast(training, residual, dtype, backend):
    ours, theirs = bn.BatchNorm2d(3, activation="relu").train(training), nn.BatchNorm2d(3).train(training)
    x = torch.randn(4, 3, 5, 5, dtype=dtype)
    r = None if residual is None else torch.randn(4, 3, 5, 5).to(residual)
    results = []
    for layer in (
        lambda x, r: ours(x, r),
        lambda x, r: torch.relu(theirs(x) if r is None else theirs(x) + r),
    ):
        t = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(t, r)
        y.float().square().sum().backward()
        results.append((y.detach(), t.grad))
    (y, gradient), (expected, wanted) = results
    assert y.dtype == expected.dtype
    assert gradient.dtype == dtype
    loose = {"rtol": 2e-2, "atol": 5e-2} if torch.bfloat16 in (dtype, residual) else {}
    torch.testing.assert_close(y, expected, **loose)
    torch.testing.assert_close(gradient, wanted, **loose)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-4, atol=1e-5)


def test_autocast_around_a_model(backend):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), bn.BatchNorm2d(3, activation="relu"), nn.Conv2d(3, 2, 1))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(4, 2, 5, 5))
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert model[1].weight.grad.dtype == torch.float32
    assert model[1].running_mean.dtype == torch.float32


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_in_place_activation_after_us(training, residual, activation, backend):
    ours, theirs = bn.BatchNorm2d(3, activation=activation).train(training), nn.BatchNorm2d(3).train(training)
    x, r = torch.randn(2, 4, 3, 5, 5)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = F.relu_(ours(a, r if residual else None))
    expected = torch.relu(theirs(b) + r if residual else theirs(b))
    torch.testing.assert_close(y, expected)
    if backend == "native" and activation == "relu":
        # There torch's own ReLU keeps its output for backward, and refuses to see it changed: never a wrong value.
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.square().sum().backward()
        return
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_modified_input_is_refused_as_torch_does(backend):
    layer, x = bn.BatchNorm1d(3), torch.randn(8, 3, requires_grad=True)
    h = x * 2
    y = layer(h)
    h.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_backward_twice_is_refused_without_retain_graph(backend):
    layer, x = bn.BatchNorm1d(3), torch.randn(8, 3, requires_grad=True)
    y = layer(x).sum()
    y.backward(retain_graph=True)
    first = x.grad.clone()
    y.backward()
    torch.testing.assert_close(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_two_threads_in_one_layer(backend):
    """Outputs are right; the statistics are those of some order of the updates, or lose one, as torch's."""
    layer = bn.BatchNorm1d(3, activation="relu")
    inputs = torch.randn(2, 50, 16, 3)
    expected = [[torch.relu(F.batch_norm(x, None, None, training=True)) for x in part] for part in inputs]
    errors = []

    def work(i):
        for x, wanted in zip(inputs[i], expected[i], strict=True):
            if not (layer(x) - wanted).abs().max() < 1e-5:
                errors.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert layer.running_mean.isfinite().all()
    assert (layer.running_var > 0).all()
    assert 50 <= layer.num_batches_tracked <= 100


def test_forward_hooks_and_parametrisation(backend):
    layer, seen = bn.BatchNorm1d(3), []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Softplus())
    x = torch.randn(8, 3)
    torch.testing.assert_close(layer(x), F.batch_norm(x, None, None, layer.weight, layer.bias, training=True))
    assert seen == [x.shape]
