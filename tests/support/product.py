"""One case of the product: our layer, torch's layer and the oracle on the same input for three steps."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import batchnorm as bn
from batchnorm.testing import assert_same
from support import cases, oracle, rounding
from support.pairs import all_pairs

OPTIONS: dict[str, tuple[Any, ...]] = {
    "dtype": tuple(cases.DTYPES),
    "layout": tuple(cases.LAYOUTS),
    "shape": tuple(cases.SHAPES),
    "activation": cases.ACTIVATIONS,
    "residual": cases.RESIDUALS,
    "affine": ("yes", "no_bias", "no"),
    "tracking": ("tracked", "untracked"),
    "mode": ("train", "eval"),
    "gradient": cases.GRADIENTS,
    "momentum": (0.1, None, 1.0),
}
# In the full product these two go round by turns: they meet every value of the others, not every combination.
BY_TURNS = ("gradient", "momentum")
# What names a test in the full product; it loops over the rest.
OUTER = ("dtype", "layout", "shape", "mode")


def short_list() -> list[dict[str, Any]]:
    """Every pair of options."""
    return all_pairs(OPTIONS)


def full_product(outer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination with `outer`, with BY_TURNS going round."""
    inner = [name for name in OPTIONS if name not in outer and name not in BY_TURNS]
    turns = [itertools.cycle(OPTIONS[name]) for name in BY_TURNS]
    for values in itertools.product(*(OPTIONS[name] for name in inner)):
        rest = dict(zip(BY_TURNS, map(next, turns), strict=True))
        yield {**outer, **dict(zip(inner, values, strict=True)), **rest}


def name_of(case: dict[str, Any]) -> str:
    return "-".join(str(value) if key != "momentum" else f"m{value}" for key, value in case.items())


def layer_class(package: Any, dims: int) -> type[nn.Module]:
    return {2: package.BatchNorm1d, 3: package.BatchNorm1d, 4: package.BatchNorm2d, 5: package.BatchNorm3d}[
        dims
    ]


def theirs_with(layer: nn.Module, activation: str, x: Tensor, residual: Tensor | None) -> Tensor:
    """torch's layer, then the residual and torch's activation."""
    y = layer(x)
    y = y if residual is None else y + residual
    functional = nn.functional
    if activation == "gelu_tanh":
        return functional.gelu(y, approximate="tanh")
    return y if activation == "none" else getattr(functional, activation)(y)


def run(layer: nn.Module, given: cases.Tensors, call: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Output and gradients, by name."""
    wanted = {"x": given.x, "weight": layer.weight, "bias": layer.bias, "residual": given.residual}
    wanted = {name: t for name, t in wanted.items() if t is not None}
    y = call(given.x, given.residual)
    return y.detach(), dict(zip(wanted, torch.autograd.grad(y, list(wanted.values()), given.dy), strict=True))


class Expected:
    """Running statistics in float64."""

    def __init__(self, mean: Tensor, var: Tensor) -> None:
        self.mean, self.var, self.steps = mean.double(), var.double(), 0

    def update(self, truth: oracle.Truth, momentum: float | None) -> None:
        self.steps += 1
        share = 1 / self.steps if momentum is None else momentum
        finite = truth.mean.isfinite() & truth.unbiased.isfinite()
        self.mean = torch.where(finite, (1 - share) * self.mean + share * truth.mean, self.mean)
        self.var = torch.where(finite, (1 - share) * self.var + share * truth.unbiased, self.var)


def check(case: dict[str, Any], backend: str, slack: float = 1.0) -> None:
    """Raise unless outputs, gradients and buffers are as accurate as torch's, and `backend` computed them."""
    training, tracked = case["mode"] == "train", case["tracking"] == "tracked"
    measures = training or not tracked
    shape = cases.SHAPES[case["shape"]]
    built = {
        key: case[key] for key in ("dtype", "shape", "layout", "gradient", "residual", "affine", "activation")
    }
    samples = [shape[0], shape[0] + 3, 2] if training else [shape[0]]
    first = cases.make(0, **built, training=measures)
    inputs = [first]
    inputs += [
        cases.make(k, **built, training=measures, samples=n, like=first) for k, n in enumerate(samples[1:], 1)
    ]
    arguments = {
        "momentum": case["momentum"],
        "affine": case["affine"] != "no",
        "bias": case["affine"] == "yes",
        "track_running_stats": tracked,
        "dtype": cases.DTYPES[case["dtype"]][1],
    }
    ours = layer_class(bn, len(shape))(shape[1], **arguments, activation=case["activation"])
    theirs = layer_class(nn, len(shape))(shape[1], **arguments)
    for layer in (ours, theirs):
        _set(layer, first, training)
    expected = Expected(first.mean, first.var)
    magnitude = expected.mean.abs()
    before = bn.functional.calls.copy()
    for given in inputs:
        with bn.functional.backend(backend):
            y, gradients = run(ours, given, ours)
        y_torch, gradients_torch = run(
            theirs, given, lambda x, r: theirs_with(theirs, case["activation"], x, r)
        )
        statistics = (None, None) if measures else (first.mean, first.var)
        truth = oracle.batch_norm(
            given.x, ours.weight, ours.bias, *statistics, given.residual, case["activation"], dy=given.dy
        )
        expected.update(truth, case["momentum"])
        magnitude = torch.maximum(magnitude, truth.magnitude)
        separate = backend == "native" or case["residual"] in ("broadcast", "other_dtype")
        scales = rounding.scales(
            truth, given, training=measures, separate=separate, activation=case["activation"]
        )
        assert_same(y, truth.y, y_torch, scale=scales["y"], strides=True, slack=slack, name="y")
        for name, gradient in gradients.items():
            same = truth.gradients[name], gradients_torch[name]
            assert_same(gradient, *same, scale=scales[name], slack=slack, name=f"d{name}")
    calls = bn.functional.calls - before
    assert calls == {backend: len(inputs)}, f"{backend} was to run {len(inputs)} times; ran: {dict(calls)}"
    if tracked:
        assert torch.equal(ours.num_batches_tracked, theirs.num_batches_tracked)
        want = expected if training else Expected(first.mean, first.var)
        assert_same(
            ours.running_mean,
            want.mean,
            theirs.running_mean,
            scale=magnitude,
            slack=slack,
            name="running_mean",
        )
        # Twice: a sum of squares in float32 is itself some units off, and the update adds its rounding.
        assert_same(
            ours.running_var,
            want.var,
            theirs.running_var,
            scale=2 * want.var,
            slack=slack,
            name="running_var",
        )


def _set(layer: nn.Module, given: cases.Tensors, training: bool) -> None:
    layer.train(training)
    pairs = (
        ("weight", given.weight),
        ("bias", given.bias),
        ("running_mean", given.mean),
        ("running_var", given.var),
    )
    with torch.no_grad():
        for name, value in pairs:
            if getattr(layer, name) is not None:
                getattr(layer, name).copy_(value)
