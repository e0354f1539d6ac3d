"""The table of activations: against formulas of our own, torch's gradients at the jumps, and what is refused."""

import pytest
import torch
from torch import nn

from batchnorm.core.activation import ACTIVATIONS, NONE, Activation
from batchnorm.core.errors import OptionError
from support import cases, oracle

GRID = torch.linspace(-9, 9, 721, dtype=torch.float64)  # has 0, 3, 6 and -3 exactly


def by_name(name):
    return Activation.of(name)


@pytest.mark.parametrize("name", cases.ACTIVATIONS)
def test_value_and_derivative_on_a_grid(name):
    act = by_name(name)
    z = GRID.clone().requires_grad_()
    y = oracle.activate(name, z)
    (slope,) = torch.autograd.grad(y.sum(), z)
    torch.testing.assert_close(act(GRID), y.detach(), rtol=1e-14, atol=1e-15)
    smooth = torch.ones_like(GRID, dtype=torch.bool)
    for kink in oracle.KINKS.get(name, ()):
        smooth &= kink != GRID
    found = ACTIVATIONS[act.name].derivative(GRID, act.slope)
    torch.testing.assert_close(found[smooth], slope[smooth], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in cases.ACTIVATIONS if name not in oracle.KINKS])
def test_derivative_in_float32(name):
    """No cancellation: a few units in the last place of 1, where torch's tanh form of GELU is 8 off."""
    act = by_name(name)
    exact = ACTIVATIONS[act.name].derivative(GRID.float().double(), act.slope)
    found = ACTIVATIONS[act.name].derivative(GRID.float(), act.slope)
    assert (found - exact).abs().max() < 4 * 2.0**-23


@pytest.mark.parametrize("name", cases.ACTIVATIONS)
def test_derivative_is_torchs_also_at_jumps_and_nan(name):
    act = by_name(name)
    z = torch.cat((GRID, torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=torch.float64)))
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(act(leaf).sum(), leaf)
    found = ACTIVATIONS[act.name].derivative(z, act.slope)
    finite = z.isfinite() | z.isnan() if ACTIVATIONS[act.name].passes is not None else z.isfinite()
    torch.testing.assert_close(found[finite], expected[finite], rtol=1e-12, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize(
    "name", [name for name, formula in ACTIVATIONS.items() if formula.passes is not None]
)
def test_passes_is_the_derivative(name):
    act = by_name(name)
    passes = ACTIVATIONS[act.name].passes(GRID)
    slopes = torch.where(passes, torch.ones_like(GRID), act.slope)
    assert torch.equal(slopes, ACTIVATIONS[act.name].derivative(GRID, act.slope))


def test_codes_are_the_operators():
    assert {name: formula.code for name, formula in ACTIVATIONS.items()} == {
        "none": 0, "relu": 1, "relu6": 2, "leaky_relu": 3, "silu": 4,
        "hardswish": 5, "gelu": 6, "gelu_tanh": 7, "sigmoid": 8, "tanh": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, NONE),
        ("relu", Activation("relu")),
        ("leaky_relu", Activation("leaky_relu", 0.01)),
        ("leaky_relu(0.2)", Activation("leaky_relu", 0.2)),
        (nn.ReLU(inplace=True), Activation("relu")),
        (nn.ReLU6(), Activation("relu6")),
        (nn.LeakyReLU(0.3), Activation("leaky_relu", 0.3)),
        (nn.SiLU(), Activation("silu")),
        (nn.Hardswish(), Activation("hardswish")),
        (nn.GELU(), Activation("gelu")),
        (nn.GELU(approximate="tanh"), Activation("gelu_tanh")),
        (nn.Sigmoid(), Activation("sigmoid")),
        (nn.Tanh(), Activation("tanh")),
        (Activation("silu"), Activation("silu")),
    ],
    ids=repr,
)
def test_of(value, expected):
    assert Activation.of(value) == expected


@pytest.mark.parametrize("name", cases.ACTIVATIONS[1:])
def test_its_text_means_itself(name):
    act = by_name(name)
    assert Activation.of(str(act)) == act


class Shifted(nn.ReLU):
    def forward(self, input):
        return super().forward(input - 1)


@pytest.mark.parametrize(
    "value",
    ["rel", "", "RELU", "leaky_relu(", "leaky_relu(x)", nn.PReLU(), nn.Softmax(1), Shifted(), 1, nn.ReLU],
    ids=repr,
)
def test_refused(value):
    with pytest.raises(OptionError, match="activation"):
        Activation.of(value)
