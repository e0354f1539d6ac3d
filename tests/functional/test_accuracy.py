"""What we claim to do better than torch: accuracy, constant channels, statistics that bad batches cannot ruin."""

import pytest
import torch
from torch.nn import functional as F

import batchnorm as bn
from support import cases, oracle

BACKENDS = ("kernel", "native")


def offset(n, dtype, generator):
    """mean/std = 1e4."""
    return (torch.randn(n, generator=generator, dtype=torch.float64) + 1e4).to(dtype)


def padded(n, dtype, generator):
    """Most rows zero, the first ones too, where a shift would be sampled; the rest far away."""
    x = torch.randn(n, generator=generator, dtype=torch.float64) + 1e4
    x[: n[0] * 3 // 4] = 0
    return x.to(dtype)


def plain(n, dtype, generator):
    return torch.randn(n, generator=generator, dtype=torch.float64).to(dtype)


def moderate(n, dtype, generator):
    """An offset that 16 bits can hold."""
    return (torch.randn(n, generator=generator, dtype=torch.float64) + 30).to(dtype)


DATA = {"plain": plain, "offset": offset, "padded": padded, "moderate": moderate}
CASES = [
    (dtype, data)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    for data in (("plain", "offset", "padded") if dtype == torch.float32 else ("plain", "moderate"))
]


def errors(function, x, dy, dtype):
    """The largest error of output, input gradient, mean and variance, each in units of what it is measured against."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    wide = torch.float32
    mean, var = torch.zeros(x.size(1), dtype=wide), torch.ones(x.size(1), dtype=wide)
    y = function(x, mean, var, None, None, True, 1.0)
    (dx,) = torch.autograd.grad(y, x, dy)
    truth = oracle.batch_norm(x, dy=dy)
    gain = truth.inverse.view([1, -1] + [1] * (x.dim() - 2))
    return {
        "y": (y.double() - truth.y).abs().max().item(),
        "dx": ((dx.double() - truth.gradients["x"]).abs() / gain).max().item(),
        "mean": ((mean.double() - truth.mean) * truth.inverse).abs().max().item(),
        "variance": ((var.double() - truth.unbiased) / truth.unbiased).abs().max().item(),
    }


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("dtype", "data"), CASES, ids=str)
def test_error_is_at_most_torchs(dtype, data, layout):
    """The largest error over 12 draws, at most torch's largest or what rounding the result alone costs."""
    worst = {"ours": {}, "torch": {}}
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        x = cases.LAYOUTS[layout](DATA[data]((16, 20, 7, 5), dtype, generator))
        dy = cases.LAYOUTS[layout](torch.randn(x.shape, generator=generator).to(dtype))
        for name, function in (("ours", bn.functional.batch_norm), ("torch", F.batch_norm)):
            with bn.functional.backend("kernel"):
                found = errors(function, x, dy, dtype)
            worst[name] = {key: max(value, worst[name].get(key, 0.0)) for key, value in found.items()}
    eps = torch.finfo(dtype).eps
    statistics = torch.finfo(torch.float32).eps
    # y is up to about 5 here, dx per gain up to about 5; the mean moves y by its own rounding, 1e4·eps at the offset.
    floor = {"y": 4 * eps, "dx": 4 * eps, "mean": 2 * statistics, "variance": 8 * statistics}
    for key, ours in worst["ours"].items():
        # 1.25: the largest of 12 draws is itself a draw.
        assert ours <= max(1.25 * worst["torch"][key], floor[key]), (key, worst)


def test_the_difference_of_squares_would_fail_this():
    """The check above can fail: E[x²] − E[x]² on the same data is off by more than the variance itself."""
    x = offset((16, 20, 7, 5), torch.float32, torch.Generator().manual_seed(0))
    naive = x.square().mean((0, 2, 3)) - x.mean((0, 2, 3)).square()
    truth = x.double().var((0, 2, 3), correction=0)
    assert ((naive - truth) / truth).abs().max() > 0.5


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16", "bf16+fp32", "fp16", "fp16+fp32"])
@pytest.mark.parametrize("shape", ["2d", "3d", "4d", "5d", "wide", "long"])
def test_a_constant_channel_gives_the_activation_of_beta(shape, dtype, activation):
    of_input, of_parameters = cases.DTYPES[dtype]
    sizes = cases.SHAPES[shape]
    values = torch.linspace(-1e4, 1e4, sizes[1]).view([1, -1] + [1] * (len(sizes) - 2))
    x = values.expand(sizes).to(of_input).contiguous()
    weight, bias = torch.full((sizes[1],), 3.0, dtype=of_parameters), torch.randn(sizes[1]).to(of_parameters)
    with bn.functional.backend("kernel"):
        y = bn.functional.batch_norm(x, None, None, weight, bias, True, activation=activation)
    beta = bias.double() if of_input == torch.float64 else bias.float()
    expected = oracle.activate(activation, beta.double()).view([1, -1] + [1] * (len(sizes) - 2)).expand(sizes)
    if activation in ("none", "relu", "relu6"):
        assert torch.equal(y, expected.to(of_input))
    torch.testing.assert_close(y.double(), expected, rtol=2 * torch.finfo(of_input).eps, atol=1e-7)
    # The same value at every position, whatever its own rounding.
    assert torch.equal(
        y,
        y.flatten(2)[:1, :, :1].view([1, -1] + [1] * (len(sizes) - 2)).expand(sizes)
        if len(sizes) > 2
        else y[:1].expand(sizes),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16+fp32", "fp16+fp32"])
def test_a_bad_value_stays_in_its_channel_and_out_of_the_statistics(dtype, layout, value, backend):
    given = cases.make(0, dtype=dtype, shape="wide", layout=layout)
    x = given.x.detach()
    x[1, 5, 2, 2] = value
    mean, var = given.mean.clone(), given.var.clone()
    theirs = F.batch_norm(x, mean.clone(), var.clone(), given.weight, given.bias, True)
    before = mean.clone(), var.clone()
    with bn.functional.backend(backend):
        y = bn.functional.batch_norm(x, mean, var, given.weight, given.bias, True)
    assert torch.equal(y.isnan(), theirs.isnan())
    assert y[:, 5].isnan().all()
    assert y[:, :5].isfinite().all()
    assert (mean[5], var[5]) == (before[0][5], before[1][5])
    others = [c for c in range(x.size(1)) if c != 5]
    assert (mean[others] != before[0][others]).any()
    assert mean.isfinite().all()
    assert var.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("with_residual", [False, True])
def test_nan_goes_through_activations_as_torchs(activation, with_residual, backend):
    x = torch.randn(6, 3, 4)
    x[0, 1, 2] = torch.nan
    r = torch.randn(6, 3, 4) if with_residual else None
    leaf, theirs_leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
    with bn.functional.backend(backend):
        y = bn.functional.batch_norm(leaf, None, None, training=True, residual=r, activation=activation)
        y.sum().backward()
    z = F.batch_norm(theirs_leaf, None, None, training=True)
    z = z if r is None else z + r
    expected = bn.core.activation.Activation.of(None if activation == "none" else activation)(z)
    expected.sum().backward()
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(leaf.grad.isnan(), theirs_leaf.grad.isnan())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_variance_too_large_for_the_buffer_leaves_it(backend):
    x = torch.tensor([[0.0, 0.0], [60000.0, 1.0]], dtype=torch.float16)
    mean, var = torch.zeros(2, dtype=torch.float16), torch.ones(2, dtype=torch.float16)
    with bn.functional.backend(backend):
        bn.functional.batch_norm(x, mean, var, training=True, momentum=0.5)
    assert (mean[0].item(), var[0].item()) == (0.0, 1.0)
    assert (mean[1].item(), var[1].item()) == (0.25, 0.75)
