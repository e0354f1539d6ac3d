"""The C++ kernels, one instruction set at a time: sizes around vectors and blocks, threads, pointers, hard statistics.

The truth is the plain-torch reference in float64 on the same values. Errors count in units of the last place of the
output dtype at the largest value of the tensor.
"""

import os
import threading

import pytest
import torch

from batchnorm.core.activation import ACTIVATIONS
from batchnorm.kernels import contract, cpu, reference

pytestmark = pytest.mark.skipif(cpu.load() is not None, reason=str(cpu.load()))
ops = torch.ops.batchnorm
ISAS = cpu.isas() if cpu.load() is None else ()
CODES = {formula.code: formula for formula in ACTIVATIONS.values()}
WIDE = {torch.float32: torch.float32, torch.float64: torch.float64}

# Around 8 and 16 lanes, four vectors, a piece of a row (256), a strip of channels (512), a block of rows (256) or of
# positions (4096), 16 channels and 64 samples together.
SHAPES = [
    (2, 3, 5, 7), (4, 16, 4, 4), (3, 17, 8), (2, 2, 63), (2, 2, 65), (1, 1, 257), (5, 33, 1, 1), (70, 3, 2), (2, 18, 9),
    (33, 15), (7, 513), (257, 9), (1, 2, 4103), (0, 3, 4), (3, 0, 4), (3, 2, 0), (2, 1, 1),
]  # fmt: skip


@pytest.fixture(params=ISAS)
def isa(request):
    cpu.configure(request.param)
    yield request.param
    cpu.configure("")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def dense(shape, dtype, last, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 0.5).to(dtype)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last and x.dim() > 2 else x


def assert_close(got, want, dtype, ulps, name):
    assert got.shape == want.shape, name
    if got.numel() == 0:
        return
    want = want.double()
    size = max(float(want.abs().max()), 1e-2)
    error = float((got.double() - want).abs().max()) / size / torch.finfo(dtype).eps
    assert error <= ulps, f"{name}: {error:.3g} units of the last place"


def wide(*tensors):
    return tuple(t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in tensors)


@pytest.mark.parametrize("last", [False, True], ids=["planes", "lanes"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_local_operators(isa, dtype, shape, last):
    acc = WIDE.get(dtype, torch.float32)
    channels, count = shape[1], shape[0] * torch.Size(shape[2:]).numel()
    x, dy, residual = (dense(shape, dtype, last, seed) for seed in range(3))
    weight, bias = torch.rand(channels).to(dtype) + 0.5, torch.randn(channels)
    # Two values stand at ±1 from their mean whatever they are: their gradient cancels to nothing.
    gradient_ulps = 64 if count > 2 else 1e9
    for code, with_residual in (
        (0, False),
        (1, False),
        (1, True),
        (2, True),
        (3, True),
        (4, True),
        (6, False),
    ):
        slope, given = (0.1 if code == 3 else 0.0), residual if with_residual else None
        keep = with_residual and CODES[code].passes is not None
        arguments = (x, weight, bias, given, 1e-3, code, slope, keep)
        y, n, mean, m2, bits = ops.forward.default(*arguments)
        assert y.stride() == x.stride() and float(n) == count
        if x.numel() == 0:
            assert not mean.any() and not m2.any()
            continue
        for name, a, b, kind in zip(
            ("y", "mean", "m2"),
            (y, mean, m2),
            (reference.forward(*wide(*arguments))[i] for i in (0, 2, 3)),
            (dtype, acc, acc),
            strict=True,
        ):
            assert_close(a, b, kind, 24, f"{name} {code}")
        arguments = (x, mean[0], m2[0] + 0.5, weight, bias, given, 1e-3, code, slope, False)
        for a, b, kind in zip(
            ops.evaluate.default(*arguments)[:3],
            reference.evaluate(*wide(*arguments))[:3],
            (dtype, acc, acc),
            strict=True,
        ):
            assert_close(a, b, kind, 24, f"evaluate {code}")
        for training in (True, False):
            arguments = (
                dy, x, mean, m2, count if training else 1, weight, bias, None if keep else given,
                bits if keep else None, 1e-3, code, slope, training, with_residual,
            )  # fmt: skip
            names = ("dx", "dweight", "dbias", "dresidual")
            for name, a, b in zip(
                names, ops.backward.default(*arguments), reference.backward(*wide(*arguments)), strict=True
            ):
                assert_close(
                    a, b, a.dtype, gradient_ulps * (8 if name != "dx" else 1), f"{name} {code} {training}"
                )


@pytest.mark.parametrize("last", [False, True], ids=["planes", "lanes"])
@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 not in s], ids=str)
@pytest.mark.parametrize(
    ("masked", "grouped"), [(True, ""), (False, "block"), (True, "block"), (False, "index"), (True, "index")]
)
def test_masks_and_groups(isa, shape, last, masked, grouped):
    dtype = torch.float32
    n, c = shape[:2]
    x, dy, residual = (dense(shape, dtype, last, seed) for seed in range(3))
    length = x[0, 0].numel()
    mask = torch.rand(n, length) < 0.6 if masked else None
    clean = x
    if masked:  # NaN where nothing may look
        shaped = mask.view(n, 1, *shape[2:]) if len(shape) > 2 else mask
        x = (
            torch.where(shaped, x, torch.nan).as_strided(x.shape, x.stride())
            if not last
            else x.masked_fill(~shaped, torch.nan)
        )
        x = torch.empty_strided(clean.shape, clean.stride()).copy_(x)
    groups, block = ((n + 2) // 3, 3) if grouped == "block" else (3, 1) if grouped == "index" else (1, 1)
    index = torch.arange(n) * 7 % 3 if grouped == "index" else None
    for got, want in zip(
        ops.moments.default(x, mask, groups, block, index),
        reference.moments(clean.double(), mask, groups, block, index),
        strict=True,
    ):
        assert_close(got, want, torch.float32, 32, "moments")
    mean, scale, shift, p, q, r = (torch.randn(groups, c) for _ in range(6))
    for code, keep in ((1, False), (1, True), (3, True), (6, False)):
        slope = 0.1 if code == 3 else 0.0
        tail = (mask, block, index, code, slope)
        y, bits = ops.normalise.default(x, mean, scale, shift, residual, *tail, keep)
        want = reference.normalise(*wide(clean, mean, scale, shift, residual), *tail, keep)[0]
        assert_close(y, want, dtype, 24, "normalise")
        given = (None, bits) if keep else (residual, None)
        for got, want in zip(
            ops.grad_reduce.default(dy, x, mean, scale, shift, *given, *tail),
            reference.grad_reduce(*wide(dy, clean, mean, scale, shift, *given), *tail),
            strict=True,
        ):
            assert_close(got, want, torch.float32, 200, "grad_reduce")
        for got, want in zip(
            ops.grad_apply.default(dy, x, mean, scale, shift, p, q, r, *given, *tail, True),
            reference.grad_apply(*wide(dy, clean, mean, scale, shift, p, q, r, *given), *tail, True),
            strict=True,
        ):
            assert_close(got, want, dtype, 32, "grad_apply")


def without_cancellation(code, z, slope):
    """The activation in float64; torch's GELUs lose their negative tails to 1 + erf and 1 + tanh."""
    if code == 6:
        return z * 0.5 * torch.erfc(z * -(0.5**0.5))
    if code == 7:
        return z * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * z * (1 + 0.044715 * z * z))
    return CODES[code].apply(z, slope)


@pytest.mark.parametrize("code", CODES, ids=list(ACTIVATIONS))
def test_activations_are_as_accurate_as_torchs(isa, code, dtype):
    """Over twelve decades and both signs: error at most torch's own, or 2 units of the last place."""
    z = torch.cat(
        [
            torch.linspace(-12, 12, 4001, dtype=torch.float64),
            torch.logspace(-8, 1.3, 400, dtype=torch.float64),
        ]
    )
    z = torch.cat([z, -z]).to(dtype).view(1, 1, -1)
    slope, acc = (0.1 if code == 3 else 0.0), WIDE.get(dtype, torch.float32)
    zero, one = torch.zeros(1, 1, dtype=acc), torch.ones(1, 1, dtype=acc)
    y, _ = ops.normalise.default(z, zero, one, zero, None, None, 1, None, code, slope, False)
    truth = without_cancellation(code, z.double(), slope)
    theirs = (CODES[code].apply(z, slope).double() - truth).abs()
    allowed = theirs + 2 * torch.finfo(dtype).eps * truth.abs() + torch.finfo(dtype).tiny
    # torch's error varies from value to value; what counts is its size where the function is about as large
    near = torch.nn.functional.max_pool1d(allowed, 41, 1, 20)
    assert bool(((y.double() - truth).abs() <= near).all())
    dx, _ = ops.grad_apply.default(
        torch.ones_like(z), z, zero, one, zero, one, zero, zero, None, None, None, 1, None, code, slope, False
    )
    # in float64 the truth's own formula, 1 - tanh², is the less accurate of the two
    assert_close(
        dx,
        CODES[code].derivative(z.double(), slope),
        dtype,
        64 if dtype == torch.float64 else 16,
        "derivative",
    )


@pytest.mark.parametrize("special", [float("nan"), float("inf"), -float("inf")])
def test_relus_treat_special_values_as_torch(isa, special):
    z = torch.tensor([special, 1.0, -1.0, 0.0, special] * 5).view(1, 1, -1)
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    for code in (1, 2, 3):
        slope = 0.1 if code == 3 else 0.0
        y, _ = ops.normalise.default(z, zero, one, zero, None, None, 1, None, code, slope, False)
        assert torch.equal(y.nan_to_num(nan=7.0), CODES[code].apply(z, slope).nan_to_num(nan=7.0))


@pytest.mark.parametrize("last", [False, True], ids=["planes", "lanes"])
@pytest.mark.parametrize(
    "shape", [(3, 5, 200, 101), (64, 40, 7, 7), (9, 2, 30000), (70000, 3), (40, 64, 16, 16)], ids=str
)
def test_same_bits_for_any_number_of_threads(isa, threads, shape, last):
    x, dy = dense(shape, torch.float32, last, 0), dense(shape, torch.float32, last, 1)
    weight, bias = torch.rand(shape[1]), torch.rand(shape[1])
    results = []
    for count in (1, 2, 7, 2):
        threads(count)
        out = ops.forward.default(x, weight, bias, None, 1e-5, 1, 0.0, False)
        n = x.numel() // shape[1]
        back = ops.backward.default(
            dy, x, out[2], out[3], n, weight, bias, None, None, 1e-5, 1, 0.0, True, False
        )
        alone = ops.moments.default(x, None, 1, 1, None)
        assert all(torch.equal(a, b) for a, b in zip(alone, out[1:4], strict=True))
        results.append((*out, *back))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("last", [False, True], ids=["planes", "lanes"])
def test_pointers_need_no_alignment(isa, dtype, last):
    for offset in (1, 3):
        x = dense((4, 24, 6, 6), dtype, last)
        storage = torch.empty(x.numel() + offset, dtype=dtype)
        shifted = storage[offset:].as_strided(x.shape, x.stride(), offset)
        shifted.copy_(x)
        for a, b in zip(
            *(ops.forward.default(v, None, None, v, 1e-5, 1, 0.0, True) for v in (x, shifted)), strict=True
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("last", [False, True], ids=["planes", "lanes"])
def test_streamed_stores_write_the_same(isa, dtype, last):
    x, dy = dense((8, 64, 16, 16), dtype, last, 0), dense((8, 64, 16, 16), dtype, last, 1)
    results = []
    for stream_bytes in (0, 1):
        cpu.configure(isa, stream_bytes=stream_bytes)
        out = ops.forward.default(x, None, None, x, 1e-5, 1, 0.0, True)
        results.append(
            (
                *out,
                *ops.backward.default(
                    dy, x, out[2], out[3], 2048, None, None, None, out[4], 1e-5, 1, 0.0, True, True
                ),
            )
        )
    cpu.configure(isa, stream_bytes=16 << 20)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("last", [False, True], ids=["planes", "lanes"])
def test_a_bad_shift_is_noticed_and_repaired(isa, last):
    """Where the samples of the guess fall on padding, and the data lie at 1e4 ± 1."""
    x = (torch.randn(16, 3, 64, 64, dtype=torch.float64) + 1e4).float()
    x = dense(x.shape, torch.float32, last).copy_(x)
    length = 64 * 64
    padding = torch.zeros(16 * length, dtype=torch.bool)
    for k in range(16):  # where a spread of 16 samples looks
        padding[(2 * k + 1) * (16 * length // 16) // 2] = True
    x.masked_fill_(padding.view(16, 1, 64, 64), 0.0)
    _, mean, m2 = ops.moments.default(x, None, 1, 1, None)
    want = x.double().var(dim=(0, 2, 3), correction=0) * 16 * length
    torch.testing.assert_close(m2[0].double(), want, rtol=3e-6, atol=0.0)
    torch.testing.assert_close(mean[0].double(), x.double().mean(dim=(0, 2, 3)), rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("last", [False, True], ids=["planes", "lanes"])
@pytest.mark.parametrize("value", [0.1, -3.3e4, 1e-30, 12345.678])
def test_a_constant_channel_has_its_mean_and_no_variance(isa, value, last, dtype):
    x = dense((6, 5, 13, 3), dtype, last).fill_(value if dtype != torch.float16 else max(value, -6e4))
    weight, bias = torch.rand(5) + 1, torch.randn(5)
    y, _, mean, m2, _ = ops.forward.default(x, weight, bias, None, 1e-5, 1, 0.0, False)
    assert torch.equal(mean[0].to(dtype), x[0, :, 0, 0]) and not m2.any()
    assert torch.equal(y, bias.relu().to(dtype).view(1, 5, 1, 1).expand(x.shape))


def test_a_forked_child_with_one_thread_works():
    x = torch.randn(8, 64, 32, 32)
    arguments = (x, None, None, None, 1e-5, 1, 0.0, False)
    want = ops.forward.default(*arguments)[0]
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        os._exit(0 if torch.equal(ops.forward.default(*arguments)[0], want) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_several_python_threads_at_once():
    x = torch.randn(8, 32, 24, 24)
    arguments = (x, None, None, None, 1e-5, 1, 0.0, False)
    want, wrong = ops.forward.default(*arguments)[0], []

    def work():
        for _ in range(20):
            if not torch.equal(ops.forward.default(*arguments)[0], want):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_refuses_what_it_does_not_know():
    with pytest.raises(RuntimeError, match="instruction set"):
        cpu.configure("sse9")
    with pytest.raises(RuntimeError, match="strides of x"):
        x = torch.randn(2, 3, 4, 4)
        ops.forward.default(
            x, None, None, x.contiguous(memory_format=torch.channels_last), 1e-5, 0, 0.0, False
        )
    with pytest.raises(RuntimeError, match="dense"):
        ops.moments.default(torch.randn(4, 6, 8)[:, ::2], None, 1, 1, None)


def test_every_operator_has_a_kernel():
    for name in contract.SCHEMAS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"batchnorm::{name}", "CPU"), name
