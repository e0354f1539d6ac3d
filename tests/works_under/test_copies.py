"""deepcopy, pickle, torch.save, the meta device, and moves of a module."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import batchnorm as bn

OPTIONS = [
    {},
    {"activation": "leaky_relu(0.2)", "momentum": None},
    {"activation": nn.SiLU(), "estimate": bn.Frozen(), "update_statistics": False},
    {"affine": False, "track_running_stats": False},
]


def _through_save(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "save": _through_save,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_copy_is_whole_and_independent(how, options, backend):
    layer = bn.BatchNorm2d(3, **options)
    x = torch.randn(4, 3, 5, 5) + 1
    layer(x)
    other = COPIES[how](layer)
    assert type(other) is bn.BatchNorm2d
    assert repr(other) == repr(layer)
    assert torch.equal(other(x), layer(x))
    for key, value in layer.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    before = copy.deepcopy(other.state_dict())
    layer(x * 3)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_weights_only_loading_of_a_state_dict(backend):
    layer, file = bn.BatchNorm2d(3, activation="relu"), io.BytesIO()
    layer(torch.randn(4, 3, 5, 5))
    torch.save(layer.state_dict(), file)
    file.seek(0)
    for target in (bn.BatchNorm2d(3), nn.BatchNorm2d(3)):
        file.seek(0)
        target.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(target.running_mean, layer.running_mean)


@pytest.mark.parametrize("training", [True, False])
def test_meta_device_knows_shapes(training):
    layer = bn.BatchNorm2d(3, device="meta", activation="relu").train(training)
    x = torch.randn(4, 3, 5, 5, device="meta", requires_grad=True)
    y = layer(x, x)
    assert (y.shape, y.device.type) == (x.shape, "meta")
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.is_meta


@pytest.mark.parametrize("estimate", [None, bn.Frozen()], ids=str)
def test_meta_then_to_empty_then_reset(estimate, backend):
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(2, 3, 1), bn.BatchNorm2d(3, estimate=estimate))
    assert model[1].running_mean.is_meta
    model.to_empty(device="cpu")
    for module in model:
        module.reset_parameters()
    fresh = bn.BatchNorm2d(3)
    for key, value in fresh.state_dict().items():
        assert torch.equal(model[1].state_dict()[key], value), key
    assert model(torch.randn(4, 2, 5, 5)).isfinite().all()


def test_fake_tensors(backend):
    from torch._subclasses.fake_tensor import FakeTensorMode

    layer = bn.BatchNorm2d(3, activation="relu")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x = mode.from_tensor(torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last))
        y = layer.eval()(x)
    assert y.shape == x.shape
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_module_to_another_dtype(dtype, backend):
    ours, theirs = bn.BatchNorm1d(3, activation="relu").to(dtype), nn.BatchNorm1d(3).to(dtype)
    x = torch.randn(8, 3, dtype=dtype)
    torch.testing.assert_close(ours(x), torch.relu(theirs(x)))
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, msg=key)


def test_module_to_channels_last(backend):
    def model(package):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), package.BatchNorm2d(8), nn.Conv2d(8, 4, 3)).to(
            memory_format=torch.channels_last
        )

    ours, theirs = model(bn), model(nn)
    x = torch.randn(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    y, expected = ours(x), theirs(x)
    assert y.stride() == expected.stride()
    assert ours[1](ours[0](x)).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours[0].weight.grad, theirs[0].weight.grad, rtol=1e-4, atol=1e-5)


def test_share_memory_is_updated_in_place(backend):
    layer = bn.BatchNorm1d(3).share_memory()
    assert layer.running_mean.is_shared()
    pointer = layer.running_mean.data_ptr()
    layer(torch.randn(8, 3) + 1)
    assert layer.running_mean.data_ptr() == pointer
    assert layer.running_mean.abs().sum() > 0
