"""The stateless call: random shapes and strides, odd dtypes, the pure twin, and which code runs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.core.errors import BackendError, OptionError
from batchnorm.testing import assert_same
from support import cases, oracle, product, rounding

BACKENDS = ("kernel", "native")


@st.composite
def calls(draw):
    """Any order of dimensions in memory, gaps, sizes that are no multiple of a vector, any values."""
    dims = draw(st.integers(2, 5))
    sizes = draw(st.lists(st.integers(1, 5), min_size=dims, max_size=dims))
    sizes[1] = draw(st.sampled_from([1, 2, 3, 8, 17]))
    sizes[-1] = draw(st.sampled_from([1, 2, 7, 16, 33])) if dims > 2 else sizes[-1]
    sizes[0] = max(sizes[0], 2)
    order = draw(st.permutations(range(dims)))
    steps = draw(st.lists(st.sampled_from([1, 1, 2]), min_size=dims, max_size=dims))
    seed = draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)

    def place(t):
        stored = torch.zeros([sizes[d] * steps[d] for d in order], dtype=t.dtype)
        view = stored.permute([order.index(d) for d in range(dims)])[
            tuple(slice(None, None, s) for s in steps)
        ]
        return view.copy_(t)

    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    scale, offset = draw(st.sampled_from([1e-2, 1.0, 30.0])), draw(st.sampled_from([0.0, 1.0, -20.0]))
    x, r, dy = (torch.randn(sizes, generator=generator, dtype=torch.float64) for _ in range(3))
    x = (x * scale + offset).to(dtype)
    activation = draw(st.sampled_from(["none", "silu", "gelu", "sigmoid", "tanh"]))
    weight, bias = torch.randn(2, sizes[1], generator=generator, dtype=torch.float64).to(dtype)
    residual = place(r.to(dtype)).requires_grad_() if draw(st.booleans()) else None
    made = cases.Tensors(
        place(x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_(),
        torch.zeros(sizes[1], dtype=dtype), torch.ones(sizes[1], dtype=dtype), residual, dy.to(dtype),
    )  # fmt: skip
    return made, activation


@pytest.mark.parametrize("backend", BACKENDS)
@given(call=calls())
def test_any_shape_strides_and_values(backend, call):
    given_, activation = call
    leaves = given_.leaves()

    def run(function):
        y = function()
        return y.detach(), torch.autograd.grad(y, list(leaves.values()), given_.dy)

    with bn.functional.backend(backend):
        y, gradients = run(
            lambda: bn.functional.batch_norm(
                given_.x,
                None,
                None,
                given_.weight,
                given_.bias,
                True,
                residual=given_.residual,
                activation=activation,
            )
        )
    theirs, theirs_gradients = run(
        lambda: product.theirs_with(
            lambda x: F.batch_norm(x, None, None, given_.weight, given_.bias, True),
            activation,
            given_.x,
            given_.residual,
        )
    )
    truth = oracle.batch_norm(
        given_.x, given_.weight, given_.bias, residual=given_.residual, activation=activation, dy=given_.dy
    )
    scales = rounding.scales(truth, given_, training=True, separate=backend == "native")
    # Few values a channel, thousands of draws: twice the allowance, in search of wrong elements.
    assert_same(y, truth.y, theirs, scale=scales["y"], strides=True, slack=2, name="y")
    for name, mine, his in zip(leaves, gradients, theirs_gradients, strict=True):
        assert_same(mine, truth.gradients[name], his, scale=scales[name], slack=4, name=f"d{name}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_pure_twin_writes_nothing(backend):
    x = torch.randn(6, 3)
    mean, var = torch.zeros(3), torch.ones(3)
    with bn.functional.backend(backend):
        y, new_mean, new_var = bn.functional.batch_norm_with_statistics(x, mean, var, training=True)
        assert torch.equal(mean, torch.zeros(3))
        assert torch.equal(var, torch.ones(3))
        same = bn.functional.batch_norm(x, mean, var, training=True)
    assert torch.equal(y, same)
    assert torch.equal(new_mean, mean)
    assert torch.equal(new_var, var)


def test_the_pure_twin_in_evaluation():
    mean, var = torch.randn(3), torch.rand(3) + 0.5
    _, new_mean, new_var = bn.functional.batch_norm_with_statistics(torch.randn(6, 3), mean, var)
    assert torch.equal(new_mean, mean)
    assert torch.equal(new_var, var)
    assert new_mean is not mean


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("of_weight", "of_statistics"), [("bf16", "fp32"), ("fp32", "bf16")])
@pytest.mark.parametrize("training", [True, False])
def test_parameters_and_statistics_of_two_dtypes(of_weight, of_statistics, training, backend):
    """As FSDP2 with bf16 parameters makes them; torch's CPU layer refuses."""
    given_ = cases.make(0, dtype="bf16+fp32", shape="4d", training=training)
    names = {"fp32": torch.float32, "bf16": torch.bfloat16}
    weight, bias = (t.detach().to(names[of_weight]).requires_grad_() for t in (given_.weight, given_.bias))
    mean, var = (t.to(names[of_statistics]) for t in (given_.mean, given_.var))
    with pytest.raises(RuntimeError, match="mixed dtype|expected scalar type"):
        F.batch_norm(given_.x, mean.clone(), var.clone(), weight, bias, training)
    statistics = (None, None) if training else (mean, var)
    truth = oracle.batch_norm(given_.x, weight, bias, *statistics, dy=given_.dy)
    with bn.functional.backend(backend):
        y = bn.functional.batch_norm(given_.x, mean, var, weight, bias, training)
    found = torch.autograd.grad(y, (given_.x, weight, bias), given_.dy)
    exact = F.batch_norm(
        given_.x.detach(),
        *(None, None) if training else (mean.float(), var.float()),
        weight.float(),
        bias.float(),
        training,
    )
    assert_same(y.detach(), truth.y, exact, name="y")
    scales = rounding.scales(truth, given_, training, separate=True)
    for name, gradient, leaf in zip(("x", "weight", "bias"), found, (given_.x, weight, bias), strict=True):
        assert gradient.dtype == leaf.dtype
        assert_same(gradient, truth.gradients[name], scale=scales[name], name=f"d{name}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_counter_proves_the_backend(backend):
    before = bn.functional.calls.copy()
    with bn.functional.backend(backend):
        for _ in range(3):
            bn.functional.batch_norm(torch.randn(4, 3), None, None, training=True, activation="relu")
    assert bn.functional.calls - before == {backend: 3}


def test_unknown_backend():
    with pytest.raises(OptionError, match="'cuda'"), bn.functional.backend("cuda"):
        pass


def test_a_named_backend_does_it_or_raises():
    with bn.functional.backend("kernel"), pytest.raises(BackendError, match="transform"):
        torch.func.grad(lambda x: bn.functional.batch_norm(x, None, None, training=True).sum())(
            torch.randn(4, 3)
        )


def test_the_backend_is_back_after_an_error():
    with pytest.raises(ValueError, match="more than 1 value"), bn.functional.backend("native"):
        bn.functional.batch_norm(torch.ones(1, 3), None, None, training=True)
    before = bn.functional.calls.copy()
    with bn.functional.backend("kernel"):
        bn.functional.batch_norm(torch.ones(2, 3), None, None, training=True)
    assert bn.functional.calls - before == {"kernel": 1}
