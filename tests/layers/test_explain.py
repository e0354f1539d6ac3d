"""`explain` says which code runs and why, and `calls` proves it."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import kernels


def test_names_the_path_that_then_runs(backend):
    layer, x = bn.BatchNorm2d(3, activation="relu"), torch.randn(4, 3, 2, 2)
    before = bn.functional.calls.copy()
    path = bn.explain(layer, x).path
    assert path == backend
    assert bn.functional.calls == before
    layer(x)
    bn.functional.batch_norm(x, None, None, training=True)
    assert (bn.functional.calls - before) == {path: 2}


def test_automatic_choice_is_proved_by_the_counter():
    layer, x = bn.BatchNorm2d(3), torch.randn(4, 3, 2, 2)
    before = bn.functional.calls.copy()
    layer(x)
    wanted = "kernel" if kernels.available("cpu") else "native"
    assert bn.explain(layer, x).path == wanted
    assert bn.functional.calls - before == {wanted: 1}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_layer_without_an_input(dims):
    assert bn.explain(getattr(bn, f"BatchNorm{dims}d")(3)).path in ("kernel", "native")
    assert bn.explain(getattr(bn, f"BatchNorm{dims}d")(3, affine=False, track_running_stats=False)).reasons


class _Named(bn.BatchNorm2d):
    """A user's subclass, under any name."""


def test_a_users_subclass():
    assert bn.explain(_Named(3)).path in ("kernel", "native")
    assert bn.explain(bn.LazyBatchNorm2d()).path in ("kernel", "native")


def test_says_that_a_residual_of_another_shape_goes_a_separate_way(backend):
    layer, x = bn.BatchNorm2d(3, activation="relu"), torch.randn(4, 3, 2, 2)
    for residual, came in (
        (x[:1], r"(1, 3, 2, 2) torch.float32"),
        (x.double(), "(4, 3, 2, 2) torch.float64"),
    ):
        text = str(bn.explain(layer, x, residual))
        assert f"the residual {came} has not the input's shape and dtype" in text
        assert "by torch, in passes of their own" in text
    assert "has not the input's shape" not in str(bn.explain(layer, x, x))


def test_says_that_other_strides_are_copied():
    with bn.functional.backend("kernel"):
        x = torch.randn(4, 6, 2, 2)[:, ::2]
        assert f"strides {x.stride()} are not dense: the input is copied first" in str(
            bn.explain(bn.BatchNorm2d(3), x)
        )


@pytest.mark.parametrize(
    ("layer", "x", "reason"),
    [
        (bn.BatchNorm1d(3), torch.zeros(2, 3).double(), "not a combination of ours"),
        (bn.BatchNorm1d(3, device="meta"), torch.zeros(2, 3, device="meta"), "the input has no storage"),
        (bn.BatchNorm1d(3, estimate=bn.Frozen()), torch.zeros(2, 3), "the running statistics normalise"),
        (bn.BatchNorm1d(3).eval(), torch.zeros(2, 3), "the running statistics normalise"),
    ],
    ids=["dtype", "meta", "frozen", "eval"],
)
def test_reasons(layer, x, reason):
    assert reason in str(bn.explain(layer, x))


def test_under_a_transform():
    text = []
    torch.func.grad(lambda x: (text.append(str(bn.explain(x))), x.sum())[1])(torch.zeros(2, 3))
    assert text[0].startswith("runs on: native\n- a torch.func transform")


def test_forced():
    with bn.functional.backend("native"):
        assert str(bn.explain(torch.zeros(2, 3))).startswith("runs on: native")
        with bn.functional.backend("kernel"):
            assert bn.explain(torch.zeros(2, 3)).path == "kernel"
        assert bn.explain(torch.zeros(2, 3)).path == "native"


@pytest.mark.parametrize("subject", [None, nn.BatchNorm2d(3), 3], ids=["None", "torch's layer", "a number"])
def test_anything_else_is_refused(subject):
    with pytest.raises(TypeError, match="explain needs a layer of this package or a tensor; got"):
        bn.explain(subject)
