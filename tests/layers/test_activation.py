"""`activation=`: names, slopes, torch's modules; and what follows is that activation."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.core.activation import ACTIVATIONS
from batchnorm.core.errors import OptionError

SPELLINGS = [
    (None, nn.Identity(), "none"),
    ("none", nn.Identity(), "none"),
    ("relu", nn.ReLU(), "relu"),
    ("relu6", nn.ReLU6(), "relu6"),
    ("leaky_relu", nn.LeakyReLU(), "leaky_relu(0.01)"),
    ("leaky_relu(0.2)", nn.LeakyReLU(0.2), "leaky_relu(0.2)"),
    ("silu", nn.SiLU(), "silu"),
    ("hardswish", nn.Hardswish(), "hardswish"),
    ("gelu", nn.GELU(), "gelu"),
    ("gelu_tanh", nn.GELU("tanh"), "gelu_tanh"),
    ("sigmoid", nn.Sigmoid(), "sigmoid"),
    ("tanh", nn.Tanh(), "tanh"),
]
MODULES = [
    (nn.ReLU(), "relu"),
    (nn.ReLU(inplace=True), "relu"),
    (nn.ReLU6(), "relu6"),
    (nn.LeakyReLU(0.3), "leaky_relu(0.3)"),
    (nn.LeakyReLU(0.3, inplace=True), "leaky_relu(0.3)"),
    (nn.SiLU(), "silu"),
    (nn.Hardswish(), "hardswish"),
    (nn.GELU(), "gelu"),
    (nn.GELU(approximate="tanh"), "gelu_tanh"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.Tanh(), "tanh"),
]


def test_the_cases_cover_the_table():
    assert {spelling.split("(")[0] for _, _, spelling in SPELLINGS} == set(ACTIVATIONS)


@pytest.mark.parametrize(("value", "module", "text"), SPELLINGS, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_name_is_torchs_module_after_torchs_layer(value, module, text, training, backend):
    x = torch.randn(8, 3, 4, 4, dtype=torch.float64) * 4
    ours = bn.BatchNorm2d(3, dtype=torch.float64, activation=value).train(training)
    theirs = nn.Sequential(nn.BatchNorm2d(3, dtype=torch.float64), module).train(training)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    y, expected = ours(a), theirs(b)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.weight.grad, theirs[0].weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs[0].bias.grad)
    assert str(ours.activation) == text


@pytest.mark.parametrize(("module", "text"), MODULES, ids=[str(m) for m, _ in MODULES])
def test_module_is_read_with_its_parameters(module, text):
    layer = bn.BatchNorm1d(3, activation=module)
    assert str(layer.activation) == text
    assert list(layer.children()) == []


def test_text_of_an_activation_is_accepted_again():
    for value, _, text in SPELLINGS:
        first = bn.BatchNorm1d(1, activation=value).activation
        assert bn.BatchNorm1d(1, activation=text).activation == first
        assert bn.BatchNorm1d(1, activation=first).activation == first


class _MyReLU(nn.ReLU):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    "module",
    [_MyReLU(), nn.PReLU(), nn.Softmax(1), nn.Sequential(nn.ReLU()), nn.ELU()],
    ids=lambda m: type(m).__name__,
)
def test_other_modules_are_refused_by_name(module):
    with pytest.raises(
        OptionError, match=rf"(?s)torch's own modules.*{type(module).__name__}.*after the layer instead"
    ):
        bn.BatchNorm2d(3, activation=module)


@pytest.mark.parametrize(
    "value",
    ["ReLU", "prelu", "", "leaky_relu()", 3, nn.ReLU, nn.functional.relu],
    ids=lambda v: getattr(v, "__name__", repr(v)),
)
def test_unknown_values_are_refused(value):
    with pytest.raises(OptionError, match='activation must be None, .*"relu", "relu6"'):
        bn.BatchNorm2d(3, activation=value)


@pytest.mark.parametrize("text", ["leaky_relu(x)", "leaky_relu(0.1, 0.2)"])
def test_slope_must_be_a_number(text):
    with pytest.raises(OptionError, match="slope.*must be a number"):
        bn.BatchNorm2d(3, activation=text)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 1.0, 2.0])
def test_unusual_slopes_are_torchs(slope, backend):
    x = torch.randn(16, 3, dtype=torch.float64, requires_grad=True)
    ours = bn.BatchNorm1d(3, dtype=torch.float64, activation=nn.LeakyReLU(slope))
    theirs = nn.BatchNorm1d(3, dtype=torch.float64)
    dy, r = torch.randn(2, 16, 3, dtype=torch.float64)
    for residual in (None, r):
        y = ours(x, residual)
        z = theirs(x)
        expected = nn.functional.leaky_relu(z if residual is None else z + residual, slope)
        torch.testing.assert_close(y, expected)
        for actual, wanted in zip(
            torch.autograd.grad(y, [x, *ours.parameters()], dy),
            torch.autograd.grad(expected, [x, *theirs.parameters()], dy),
            strict=True,
        ):
            torch.testing.assert_close(actual, wanted)
