"""Each operator against its definition in float64: masks, groups, bits, empty and one-value groups; and opcheck."""

import itertools

import pytest
import torch

import batchnorm as bn
from batchnorm.core import shapes
from batchnorm.core.activation import ACTIVATIONS
from batchnorm.functional.commit import new_pending
from batchnorm.kernels import contract, reference
from support import cases, oracle

ops = torch.ops.batchnorm
CODES = {name: formula.code for name, formula in ACTIVATIONS.items()}
ONE_BIT = {"relu", "relu6", "leaky_relu"}
SHAPES = ("2d", "3d", "4d", "5d", "one_channel", "wide")
LAYOUTS = ("contiguous", "channels_last")
GROUPINGS = ("one", "blocks", "remainder", "index", "empty_group", "one_sample_each")
MASKS = (False, True)
SLOPE = {"leaky_relu": 0.1}


def grouping(kind, samples):
    """groups, block, index, and the group of each sample as a list."""
    match kind:
        case "one":
            return 1, 1, None, [0] * samples
        case "blocks":
            return 3, -(-samples // 3), None, [min(i // -(-samples // 3), 2) for i in range(samples)]
        case "remainder":  # the last group takes what is left over
            return 2, 2, None, [min(i // 2, 1) for i in range(samples)]
        case "index":
            members = [(5 * i + 1) % 2 for i in range(samples)]
        case "empty_group":
            members = [2 * (i % 2) for i in range(samples)]
        case "one_sample_each":
            members = list(range(samples))
    return max(members) + 1, 1, torch.tensor(members), members


class Problem:
    """Tensors of one operator call, and the same in float64 as (N, C, L)."""

    def __init__(self, shape, layout, group, masked, activation="none", residual=False, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        sizes = cases.SHAPES[shape]
        place = cases.LAYOUTS[layout]

        def draw(*size):
            return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

        self.x, self.dy = place(draw(*sizes)), place(draw(*sizes))
        self.residual = place(draw(*sizes)) if residual else None
        self.groups, self.block, self.index, self.members = grouping(group, sizes[0])
        self.activation, self.slope = activation, SLOPE.get(activation, 0.0)
        self.mask = None
        if masked:
            self.mask = torch.rand(sizes[0], shapes.positions(self.x), generator=generator) < 0.7
            poison = ~self.mask.view(sizes[0], 1, *sizes[2:]).expand(sizes)
            for t in (self.x, self.dy, self.residual):
                if t is not None:
                    t[poison] = torch.nan
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.mean, self.scale, self.shift, self.p, self.q, self.r = (
            torch.randn(self.groups, sizes[1], generator=generator, dtype=torch.float64).to(wide)
            for _ in range(6)
        )

    def ncl(self, t):
        return t.double().unsqueeze(-1) if t.dim() == 2 else t.double().flatten(2)

    def real(self):
        n, c, length = self.ncl(self.x).shape
        mask = torch.ones(n, length, dtype=torch.bool) if self.mask is None else self.mask
        return mask.unsqueeze(1).expand(n, c, length)

    def spread(self, v):
        return v.double()[self.members].unsqueeze(-1)

    def z(self):
        z = self.spread(self.scale) * (self.ncl(self.x) - self.spread(self.mean)) + self.spread(self.shift)
        return z if self.residual is None else z + self.ncl(self.residual)

    def g(self):
        z = self.z().nan_to_num().requires_grad_()
        y = oracle.activate(self.activation, z, self.slope)
        (g,) = torch.autograd.grad(y, z, self.ncl(self.dy).nan_to_num())
        return torch.where(self.real(), g, 0.0)

    def sums(self, v_NCL):
        return torch.zeros(self.groups, v_NCL.size(1), dtype=torch.float64).index_add(
            0, torch.tensor(self.members), v_NCL.sum(-1)
        )

    def bits(self):
        arguments = (
            self.x,
            self.mean,
            self.scale,
            self.shift,
            self.residual,
            self.mask,
            self.block,
            self.index,
        )
        return ops.normalise(*arguments, CODES[self.activation], self.slope, True)[1]


def close(found, expected, dtype=torch.float32):
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        found.double(), expected, rtol=8 * eps, atol=8 * eps * (1 + float(expected.abs().max()))
    )


problems = pytest.mark.parametrize(
    ("shape", "layout", "group", "masked"),
    list(itertools.product(SHAPES, LAYOUTS, GROUPINGS, MASKS)),
    ids=lambda v: {True: "masked", False: "whole"}.get(v, v) if isinstance(v, bool) else v,
)


@problems
def test_moments(shape, layout, group, masked):
    p = Problem(shape, layout, group, masked)
    count, mean, m2 = ops.moments(p.x, p.mask, p.groups, p.block, p.index)
    assert (count.shape, mean.shape, m2.shape) == ((p.groups,), p.mean.shape, p.mean.shape)
    assert (count.dtype, mean.dtype, m2.dtype) == (torch.float64, torch.float32, torch.float32)
    x, real = p.ncl(p.x), p.real()
    expected = p.sums(real.double())
    assert torch.equal(count, expected[:, 0])
    exact = p.sums(torch.where(real, x, 0.0)) / expected.clamp(min=1)
    close(mean, exact)
    close(m2, p.sums(torch.where(real, x - p.spread(exact), 0.0).square()))
    assert not mean[count == 0].any()
    assert not m2[count <= 1].any()


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@problems
def test_normalise_and_gradients(shape, layout, group, masked, activation):
    residual = GROUPINGS.index(group) % 2 == 0
    p = Problem(shape, layout, group, masked, activation, residual)
    code, slope = CODES[activation], p.slope
    common = p.mask, p.block, p.index, code, slope
    y, bits = ops.normalise(p.x, p.mean, p.scale, p.shift, p.residual, *common, activation in ONE_BIT)
    assert y.stride() == p.x.stride()
    close(p.ncl(y), torch.where(p.real(), oracle.activate(activation, p.z(), slope), 0.0))
    assert bits.numel() == 0 or tuple(bits.shape) == shapes.bits_shape(p.x)
    g, deviation = p.g(), torch.where(p.real(), p.ncl(p.x) - p.spread(p.mean), 0.0)
    dx = torch.where(p.real(), p.spread(p.p) * g + p.spread(p.q) * deviation + p.spread(p.r), 0.0)
    vectors = p.mean, p.scale, p.shift
    for kept in {None: (None,), True: (None, bits)}[True if activation in ONE_BIT else None]:
        # With the record of the activation's derivative the residual is not needed again.
        again = None if kept is not None else p.residual
        sum_g, sum_gx = ops.grad_reduce(p.dy, p.x, *vectors, again, kept, *common)
        close(sum_g, p.sums(g))
        close(sum_gx, p.sums(g * deviation))
        for need in (True, False):
            found, dresidual = ops.grad_apply(p.dy, p.x, *vectors, p.p, p.q, p.r, again, kept, *common, need)
            assert found.stride() == p.x.stride()
            close(p.ncl(found), dx)
            if need:
                close(p.ncl(dresidual), g)
            else:
                assert dresidual.numel() == 0


@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
def test_one_value_a_group_gives_the_activation_of_shift_and_residual(activation):
    p = Problem("2d", "contiguous", "one_sample_each", False, activation, residual=True)
    count, mean, m2 = ops.moments(p.x, None, p.groups, 1, p.index)
    assert torch.equal(count, torch.ones_like(count))
    scale = torch.rsqrt(m2 / 1 + 1e-5)
    y, _ = ops.normalise(
        p.x, mean, scale, p.shift, p.residual, None, 1, p.index, CODES[activation], p.slope, False
    )
    close(y, oracle.activate(activation, p.shift.double()[p.members] + p.residual.double(), p.slope))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("value", [0.7, 1e4, -3e-5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_constant_channel_has_no_variance(layout, shape, value, dtype):
    x = cases.LAYOUTS[layout](torch.full(cases.SHAPES[shape], value, dtype=dtype))
    _, mean, m2 = ops.moments(x, None, 1, 1, None)
    assert torch.equal(
        mean, x[:1, :].flatten(2).select(-1, 0).to(mean.dtype) if x.dim() > 2 else x[:1].to(mean.dtype)
    )
    assert not m2.any()


@pytest.mark.parametrize(
    "name", ["moments", "normalise", "grad_reduce", "grad_apply", "forward", "evaluate", "backward"]
)
@pytest.mark.parametrize("masked", MASKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_reference_gives_the_same(layout, masked, name):
    """What runs where there are no kernels: the same definition, in plain torch."""
    for activation, group in itertools.product(cases.ACTIVATIONS, ("one", "remainder", "empty_group")):
        if name in ("forward", "evaluate", "backward") and (masked or group != "one"):
            continue
        arguments = call_of(
            name, Problem("wide", layout, group, masked, activation, residual=activation != "silu")
        )
        for ours, plain in zip(
            getattr(ops, name)(*arguments), getattr(reference, name)(*arguments), strict=True
        ):
            if ours.dtype == torch.uint8:
                assert ours.shape == plain.shape
                if ours.numel():
                    # Bits under the mask, and those that fill the last byte of a row, mean nothing.
                    real = torch.ones(arguments[0].flatten(2).shape, dtype=torch.bool)
                    real = real if not masked else arguments[5].unsqueeze(1).expand_as(real)
                    x = arguments[0]
                    assert torch.equal(reference.unpack(ours, x)[real], reference.unpack(plain, x)[real])
            else:
                close(ours, plain.double())


def call_of(name, p):
    """Arguments of operator `name` for a problem."""
    keep = p.activation in ONE_BIT
    code, slope = CODES[p.activation], p.slope
    bits = p.bits() if keep and p.residual is not None else None
    again = None if bits is not None else p.residual
    vectors = p.mean, p.scale, p.shift
    weight, bias = p.scale[0].contiguous(), p.shift[0].contiguous()
    common = p.mask, p.block, p.index, code, slope
    count = p.x.numel() // p.x.size(1)
    return {
        "moments": lambda: (p.x, p.mask, p.groups, p.block, p.index),
        "normalise": lambda: (p.x, *vectors, p.residual, *common, keep),
        "grad_reduce": lambda: (p.dy, p.x, *vectors, again, bits, *common),
        "grad_apply": lambda: (p.dy, p.x, *vectors, p.p, p.q, p.r, again, bits, *common, True),
        "forward": lambda: (p.x, weight, bias, p.residual, 1e-5, code, slope, keep),
        "evaluate": lambda: (p.x, bias, weight.abs() + 0.5, weight, None, p.residual, 1e-5, code, slope, keep),
        "backward": lambda: (
            p.dy, p.x, p.mean[:1], (p.scale[:1].square() + 0.5) * count, count, weight, bias, p.residual, None,
            1e-5, code, slope, True, True,
        ),
    }[name]()  # fmt: skip


OPCHECKED = [
    (name, layout, group, masked, activation, residual)
    for name in ("moments", "normalise", "grad_reduce", "grad_apply")
    for layout in LAYOUTS
    for group, masked, activation, residual in (
        ("one", False, "none", False),
        ("one", True, "relu", True),
        ("remainder", False, "gelu", True),
        ("index", True, "leaky_relu", False),
    )
] + [
    (name, layout, "one", False, activation, residual)
    for name in ("forward", "evaluate", "backward")
    for layout in LAYOUTS
    for activation, residual in (("none", False), ("relu", True), ("silu", True))
]


@pytest.mark.parametrize(("name", "layout", "group", "masked", "activation", "residual"), OPCHECKED)
def test_opcheck(name, layout, group, masked, activation, residual):
    p = Problem("4d", layout, group, masked, activation, residual)
    torch.library.opcheck(getattr(ops, name).default, call_of(name, p))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_opcheck_update_and_commit(momentum):
    mean, var, batches = torch.zeros(3), torch.ones(3), torch.tensor(0)
    moments = torch.full((1,), 8.0, dtype=torch.float64), torch.ones(1, 3), torch.ones(1, 3)
    torch.library.opcheck(ops.update_.default, (mean, var, batches, *moments, momentum))
    torch.library.opcheck(ops.commit_.default, (mean, var, batches, None, *moments, momentum))
    torch.library.opcheck(ops.commit_.default, (mean, var, batches, new_pending(mean), *moments, momentum))


def test_every_schema_is_checked():
    assert {case[0] for case in OPCHECKED} | {"update_"} == set(contract.SCHEMAS)
    assert bn.functional.calls is not None
