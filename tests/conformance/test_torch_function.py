"""torch's own operator samples (OpInfo of nn.functional.batch_norm) on our function; errors, of which it lists none."""

import pytest
import torch
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.core.errors import BackendError
from batchnorm.testing import assert_same
from support import cases, oracle, rounding, torch_samples

BACKENDS = ("kernel", "native")
INFO = torch_samples.function_info()


def samples():
    for dtype in torch_samples.DTYPES:
        for source in ("sample_inputs", "reference_inputs"):
            for number, sample in enumerate(getattr(INFO, source)("cpu", dtype, requires_grad=True)):
                yield pytest.param(sample, id=f"{source.partition('_')[0]}-{str(dtype)[6:]}-{number}")


SAMPLES = list(samples())


def test_the_samples_are_of_every_dtype_that_torch_lists():
    assert INFO.dtypes == set(torch_samples.DTYPES)
    assert len(SAMPLES) >= 96
    assert INFO.error_inputs_func is None, "torch now lists error inputs: run them"


def leaf(t):
    return (
        None
        if t is None
        else t.detach().clone(memory_format=torch.preserve_format).requires_grad_(t.requires_grad)
    )


def call(function, sample):
    """The output, gradients by name, and the running statistics afterwards; or the exception."""
    mean, var, weight, bias = (leaf(t) for t in (*sample.args, *[None] * 4)[:4])
    weight, bias = (sample.kwargs.get(n, t) for n, t in (("weight", weight), ("bias", bias)))
    weight, bias, x = leaf(weight), leaf(bias), leaf(sample.input)
    mean, var = (None if t is None else t.detach() for t in (mean, var))
    options = {name: v for name, v in sample.kwargs.items() if name not in ("weight", "bias")}
    try:
        y = function(x, mean, var, weight, bias, **options)
    except (RuntimeError, ValueError) as error:
        return error
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    wanted = {
        name: t
        for name, t in (("x", x), ("weight", weight), ("bias", bias))
        if t is not None and t.requires_grad
    }
    found = torch.autograd.grad(y, list(wanted.values()), dy)
    return y.detach(), dict(zip(wanted, found, strict=True)), (mean, var), (x, weight, bias, dy, options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_every_sample(sample, backend):
    before = bn.functional.calls.copy()
    theirs = call(F.batch_norm, sample)
    if sample.input.dim() < 2:
        # Two samples of torch's are vectors without an element, which its native code lets pass.
        assert_vector(sample, theirs)
        return
    with bn.functional.backend(backend):
        ours = call(bn.functional.batch_norm, sample)
    if isinstance(theirs, Exception):
        assert type(ours) is type(theirs)
        assert str(ours).startswith(str(theirs).rstrip("."))
        return
    x, weight, bias, dy, options = ours[3]
    start = [None if t is None else t.detach() for t in (*sample.args, None, None)[:2]]
    training = options.get("training", False)
    statistics = (None, None) if training else start
    eps = options.get("eps", 1e-5)
    truth = oracle.batch_norm(x, weight, bias, *statistics, dy=dy, eps=eps)
    given = cases.Tensors(x, weight, bias, *start, None, dy)
    scales = rounding.scales(truth, given, training, separate=backend == "native")
    assert_same(ours[0], truth.y, theirs[0], scale=scales["y"], strides=True, name="y")
    for name, gradient in ours[1].items():
        assert_same(gradient, truth.gradients[name], theirs[1][name], scale=scales[name], name=f"d{name}")
    for mine, his, old, new in zip(ours[2], theirs[2], start, (truth.mean, truth.unbiased), strict=True):
        if mine is None:
            continue
        momentum = options.get("momentum", 0.1) if training else 0.0
        expected = (1 - momentum) * old.double() + (momentum * new if momentum else 0)
        assert_same(mine, expected, his, scale=2 * truth.magnitude.square() + expected.abs(), name="running")
    assert set(bn.functional.calls - before) == {backend}


def assert_vector(sample, theirs):
    with bn.functional.backend("kernel"):
        assert isinstance(call(bn.functional.batch_norm, sample), BackendError)
    ours = call(bn.functional.batch_norm, sample)
    if isinstance(theirs, Exception):
        assert type(ours) is type(theirs)
    else:
        assert ours[0].shape == theirs[0].shape == (0,)


def zeros(*shape, **options):
    return torch.zeros(*shape, **options)


ERRORS = {
    "one value": lambda f: f(zeros(1, 3), zeros(3), zeros(3), training=True),
    "one value, 4-D": lambda f: f(zeros(1, 3, 1, 1), None, None, training=True),
    "eps 0 in training": lambda f: f(zeros(4, 3), None, None, training=True, eps=0.0),
    "negative eps": lambda f: f(zeros(4, 3), zeros(3), zeros(3), eps=-1.0),
    "no statistics in evaluation": lambda f: f(zeros(4, 3), None, None),
    "one of two statistics": lambda f: f(zeros(4, 3), zeros(3), None),
    "wrong size of running_mean": lambda f: f(zeros(4, 3), zeros(2), zeros(3)),
    "wrong size of running_var": lambda f: f(zeros(4, 3), zeros(3), zeros(5), training=True),
    "wrong size of weight": lambda f: f(zeros(4, 3), zeros(3), zeros(3), zeros(2)),
    "wrong size of bias": lambda f: f(zeros(4, 3), zeros(3), zeros(3), None, zeros(4)),
    "integers": lambda f: f(zeros(4, 3, dtype=torch.int64), zeros(3), zeros(3), training=True),
    "complex": lambda f: f(zeros(4, 3, dtype=torch.complex64), None, None, training=True),
    "wrong dtype of weight": lambda f: f(
        zeros(4, 3), None, None, zeros(3, dtype=torch.float64), training=True
    ),
    "wrong dtype of statistics": lambda f: f(zeros(4, 3), *zeros(2, 3, dtype=torch.float64), training=True),
    "bf16 statistics beside float32": lambda f: f(
        zeros(4, 3), *zeros(2, 3, dtype=torch.bfloat16), training=True
    ),
    "1-D": lambda f: f(zeros(4), zeros(4), zeros(4)),
}


@pytest.mark.parametrize("backend", ["auto", "native"])
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_errors_are_torchs(error, backend):
    with pytest.raises(Exception) as theirs:  # noqa: PT011  whatever torch raises is what is compared
        error(F.batch_norm)
    with bn.functional.backend(backend), pytest.raises(type(theirs.value)) as ours:
        error(bn.functional.batch_norm)
    assert str(ours.value).startswith(str(theirs.value).splitlines()[0].rstrip("."))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_changes_when_a_call_raises(backend):
    mean, var = torch.ones(3), torch.ones(3)
    with bn.functional.backend(backend), pytest.raises(ValueError, match="more than 1 value"):
        bn.functional.batch_norm(torch.ones(1, 3), mean, var, training=True)
    assert torch.equal(mean, torch.ones(3))
    assert torch.equal(var, torch.ones(3))
