"""torch's own module tests (ModuleInfo of nn.BatchNorm*) on our layers: every input torch lists, and its errors."""

import re

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.testing import assert_same
from support import cases, oracle, rounding, torch_samples

KINDS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d")
BACKENDS = ("kernel", "native")


def modules(kind):
    """The samples of `kind`: those of the sized layer, without `num_features` for the lazy one."""
    for training in (True, False):
        for dtype in torch_samples.DTYPES:
            samples = torch_samples.module_inputs(kind.removeprefix("Lazy"), dtype, training)
            for number, sample in enumerate(samples):
                yield pytest.param(
                    kind, sample, dtype, training, id=f"{kind}-{number}-{dtype}-{training}"[:80]
                )


def build(package, kind, sample, dtype, training):
    arguments, keywords = sample.constructor_input.args, sample.constructor_input.kwargs
    if kind.startswith("Lazy"):
        arguments = arguments[1:]
    torch.manual_seed(0)
    return getattr(package, kind)(*arguments, **keywords, dtype=dtype).train(training)


def outcome(layer, x, dy):
    """Output and gradients by name, or the exception."""
    try:
        y = layer(x)
    except (RuntimeError, ValueError) as error:
        return error
    wanted = {"x": x, "weight": layer.weight, "bias": layer.bias}
    wanted = {name: t for name, t in wanted.items() if t is not None}
    return y.detach(), dict(zip(wanted, torch.autograd.grad(y, list(wanted.values()), dy), strict=True))


def same(ours, theirs, x, backend):
    """Compare two forward and backward passes of both layers and what they leave behind."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    for _ in range(2):
        before = [None if t is None else t.clone() for t in (theirs.running_mean, theirs.running_var)]
        his = outcome(theirs, x, dy)
        with bn.functional.backend(backend):
            mine = outcome(ours, x, dy)
        if isinstance(his, Exception):
            assert type(mine) is type(his)
            assert str(mine).startswith(str(his).rstrip("."))
            return
        measures = theirs.training or not theirs.track_running_stats
        given = cases.Tensors(x, theirs.weight, theirs.bias, *before, None, dy)
        truth = oracle.batch_norm(
            x, given.weight, given.bias, *((None, None) if measures else before), dy=dy, eps=theirs.eps
        )
        scales = rounding.scales(truth, given, measures, separate=backend == "native")
        assert_same(mine[0], truth.y, his[0], scale=scales["y"], strides=True, name="y")
        for name, gradient in mine[1].items():
            assert_same(gradient, truth.gradients[name], his[1][name], scale=scales[name], name=f"d{name}")
        for name, buffer in theirs.named_buffers():
            # Both layers stay within rounding of each other; the product test holds them against the oracle.
            torch.testing.assert_close(ours.get_buffer(name), buffer)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "sample", "dtype", "training"), [p for kind in KINDS for p in modules(kind)]
)
def test_every_sample(kind, sample, dtype, training, backend):
    ours, theirs = (build(package, kind, sample, dtype, training) for package in (bn, nn))
    x = sample.forward_input.args[0]
    if kind.startswith("Lazy"):
        for layer in (ours, theirs):
            # What the first call does before its forward.
            layer._infer_parameters(layer, (x,))
    before = bn.functional.calls.copy()
    same(ours, theirs, x, backend)
    assert set(bn.functional.calls - before) <= {backend}


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_both_ways(kind):
    for sample in torch_samples.module_inputs(kind.removeprefix("Lazy"), torch.float32, True):
        ours, theirs = (build(package, kind, sample, torch.float32, True) for package in (bn, nn))
        x = sample.forward_input.args[0]
        ours(x)
        theirs(x)
        for source, target in ((ours, theirs), (theirs, ours)):
            for value in source.state_dict().values():
                value.add_(1)
            found = target.load_state_dict(source.state_dict(), strict=True)
            assert not found.missing_keys
            assert not found.unexpected_keys
            assert list(source.state_dict()) == list(target.state_dict())
            assert source.state_dict()._metadata.keys() == target.state_dict()._metadata.keys()
            for name, value in source.state_dict().items():
                assert torch.equal(value, target.state_dict()[name])


def error_of(layer, sample):
    try:
        layer(*sample.forward_input.args, **sample.forward_input.kwargs)
    except Exception as error:  # noqa: BLE001  any error of torch's is to be matched
        return error
    return None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_every_error(kind, training):
    errors = [
        (dtype, e)
        for dtype in torch_samples.DTYPES
        for e in torch_samples.module_errors(kind, dtype, training)
    ]
    assert errors
    for dtype, listed in errors:
        sample = listed.module_error_input
        ours, theirs = (
            error_of(build(package, kind, sample, dtype, training), sample) for package in (bn, nn)
        )
        if training:
            assert isinstance(theirs, listed.error_type)
            assert re.search(listed.error_regex, str(ours))
        # In evaluation torch takes an eps of 0.
        assert type(ours) is type(theirs)
        assert str(ours).startswith(str(theirs))


def test_the_samples_are_not_few(record_property):
    counts = {kind: sum(1 for _ in modules(kind)) for kind in KINDS}
    record_property("torch module samples", counts)
    assert all(count >= 20 for count in counts.values()), counts
