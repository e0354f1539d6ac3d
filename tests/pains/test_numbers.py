"""Pains with the numbers themselves: one value, layouts, cancellation. Strict xfails as in `test_statistics.py`."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchnorm as bn
from support.pains import OURS, TORCH, whose


@whose("the error does not say what to do about it")
def test_pain_04_one_value_per_channel_on_the_last_batch(layers):
    loader = DataLoader(TensorDataset(torch.randn(9, 3)), batch_size=4)
    layer = layers.BatchNorm1d(3)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training") as error:
        for (batch,) in loader:
            layer(batch)
    for advice in ("drop_last=True", "Frozen()", "running statistics"):
        assert advice in str(error.value)


@whose("training fails; there is no estimate that works", raises=ValueError)
def test_pain_04_training_on_one_value_with_the_running_statistics(layers, whose):
    layer = layers.BatchNorm1d(3) if whose == TORCH else layers.BatchNorm1d(3, estimate=bn.Frozen())
    layer.train()
    layer(torch.randn(1, 3)).sum().backward()
    assert layer.weight.grad.isfinite().all()


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3),
    "every second channel": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "every second column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "flipped batch of a view": lambda x: torch.cat([x, x])[1 : 1 + len(x)],
    "expanded": lambda x: x[:1].expand(x.shape),
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@whose()
@pytest.mark.parametrize("gradient", ["as input", "contiguous", "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pain_12_layouts_give_wrong_gradients(layers, layout, gradient):
    x = LAYOUTS[layout](torch.randn(4, 6, 5, 5, dtype=torch.float64))
    layer, reference = layers.BatchNorm2d(6).double(), nn.BatchNorm2d(6).double()
    a, b = x.detach().requires_grad_(), x.detach().contiguous().requires_grad_()
    y, expected = layer(a), reference(b)
    dy = torch.randn(4, 6, 5, 5, dtype=torch.float64)
    if gradient == "as input":
        dy = LAYOUTS[layout](dy)
    elif gradient == "expanded":
        dy = dy[:1, :, :1, :1].expand(4, 6, 5, 5)
    y.backward(dy)
    expected.backward(dy.contiguous())
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(layer.weight.grad, reference.weight.grad)
    torch.testing.assert_close(layer.running_var, reference.running_var)


@whose()
def test_pain_12_updates_of_strided_buffers_are_lost(layers):
    layer, storage = layers.BatchNorm1d(3), torch.zeros(3, 2)
    layer.running_mean = storage[:, 1]
    x = torch.randn(8, 3)
    layer(x)
    torch.testing.assert_close(storage[:, 1], 0.1 * x.mean(0))


@whose()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("mean", "std"), [(1e4, 1.0), (5.0, 0.1), (1e-3, 1e-6)], ids=str)
def test_pain_16_the_variance_cancels(layers, mean, std, dtype):
    x = (torch.randn(512, 4, dtype=torch.float64) * std + mean).to(dtype)
    layer = layers.BatchNorm1d(4, momentum=1.0, eps=1e-12).float()
    y = layer(x)
    assert y.isfinite().all()
    torch.testing.assert_close(layer.running_var.double(), x.double().var(0), rtol=1e-3, atol=1e-6 * std**2)
    assert (layer.running_var >= 0).all()


@whose("the variance of a constant channel is not exactly 0")
def test_pain_16_a_constant_channel_is_not_exactly_beta(layers, whose):
    if whose == OURS[1]:
        pytest.skip("torch's own code computes the variance there")
    layer, x = layers.BatchNorm1d(3), torch.full((1000, 3), 0.1)
    x[:, 1] = 1e4 / 3
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.5, -2.0, 0.0]))
    y = layer(x)
    assert torch.equal(y, layer.bias.detach().expand_as(x))


@whose()
def test_pain_16_padded_data_far_from_zero(layers):
    """Zeros in front, then values around 10000: a shift that is sampled from the padding would cancel."""
    x = torch.randn(8, 4, 500, dtype=torch.float64) + 1e4
    x[:2] = 0
    layer = layers.BatchNorm1d(4, momentum=1.0)
    layer(x.float())
    wanted = x.float().double().transpose(0, 1).flatten(1).var(1)
    torch.testing.assert_close(layer.running_var.double(), wanted, rtol=1e-4, atol=0.0)
