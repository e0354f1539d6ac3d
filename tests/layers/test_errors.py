"""An error has torch's type and begins with torch's sentence; then what came and what to do; state is unchanged."""

import re

import pytest
import torch
from torch import nn

import batchnorm as bn

ONE_VALUE = [
    ("BatchNorm1d", (1, 3)),
    ("BatchNorm1d", (1, 3, 1)),
    ("BatchNorm2d", (1, 3, 1, 1)),
    ("BatchNorm3d", (1, 3, 1, 1, 1)),
]
WRONG_DIMS = [
    ("BatchNorm1d", (3,)),
    ("BatchNorm1d", (2, 3, 4, 4)),
    ("BatchNorm2d", (2, 3)),
    ("BatchNorm2d", (2, 3, 4)),
    ("BatchNorm3d", (2, 3, 4, 4)),
]
CASES = {
    "channels": lambda cls: (cls(3), torch.randn(4, 5)),
    "integers": lambda cls: (cls(3), torch.ones(4, 3, dtype=torch.int64)),
    "float64 input, float32 layer": lambda cls: (cls(3), torch.randn(4, 3).double()),
    "float32 input, float64 layer": lambda cls: (cls(3).double(), torch.randn(4, 3)),
    "float32 input, bfloat16 layer": lambda cls: (cls(3).bfloat16(), torch.randn(4, 3)),
    "complex": lambda cls: (cls(3), torch.randn(4, 3).to(torch.complex64)),
    "another device": lambda cls: (cls(3), torch.randn(4, 3, device="meta")),
}


def _untouched(layer, before):
    return all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize(("name", "shape"), ONE_VALUE, ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_one_value_per_channel(name, shape, affine, backend):
    theirs, ours = (getattr(package, name)(3, affine=affine) for package in (nn, bn))
    x = torch.randn(shape)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel") as torchs:
        theirs(x)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(str(torchs.value))) as error:
        ours(x)
    assert str(error.value).startswith(str(torchs.value))
    for advice in ("drop_last=True", "Frozen()", "eval()"):
        assert advice in str(error.value)
    assert _untouched(ours, before)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(("name", "shape"), WRONG_DIMS, ids=str)
def test_wrong_number_of_dimensions(name, shape, backend):
    x = torch.randn(shape)
    with pytest.raises(ValueError, match=r"expected .*D input \(got") as torchs:
        getattr(nn, name)(3)(x)
    layer = getattr(bn, name)(3)
    with pytest.raises(ValueError, match=re.escape(str(torchs.value))) as error:
        layer(x)
    assert str(error.value).startswith(str(torchs.value))
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_torchs_error_first_then_what_came(case, training):
    theirs, x = CASES[case](nn.BatchNorm1d)
    try:
        expected = theirs.train(training)(x)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        torchs = error
    else:
        pytest.skip(f"torch accepts it and returns {expected.dtype}")
    ours, x = CASES[case](bn.BatchNorm1d)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(type(torchs)) as error:
        ours.train(training)(x)
    first = str(torchs).splitlines()[0]
    assert str(error.value).startswith(first[:40])
    assert f"input {tuple(x.shape)} {x.dtype} on {x.device}" in str(error.value)
    assert _untouched(ours, before)


@pytest.mark.parametrize("case", ["integers", "float64 input, float32 layer", "channels"])
def test_a_named_backend_refuses_what_it_cannot_do(case):
    layer, x = CASES[case](bn.BatchNorm1d)
    with (
        bn.functional.backend("kernel"),
        pytest.raises(RuntimeError, match='backend\\("kernel"\\) cannot do this call'),
    ):
        layer(x)


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'kernel', 'native'; got 'cuda'"):
        bn.functional.backend("cuda").__enter__()


def test_not_a_tensor():
    with pytest.raises(AttributeError) as torchs:
        nn.BatchNorm1d(3)([1.0])
    with pytest.raises(type(torchs.value)):
        bn.BatchNorm1d(3)([1.0])


def test_an_error_of_the_layer_changes_no_forced_backend():
    with pytest.raises(ZeroDivisionError), bn.functional.backend("native"):
        raise ZeroDivisionError
    assert "asks for it" not in str(bn.explain(torch.zeros(2, 3)))
