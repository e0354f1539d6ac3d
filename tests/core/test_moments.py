"""The laws of `Moments`: merging is associative, commutative, has an identity; any split merges to the whole."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchnorm import Moments
from batchnorm.testing import assert_same

FLOATS = st.floats(-1e3, 1e3, allow_nan=False, width=32)


@st.composite
def values(draw, dtype=torch.float64):
    rows, channels = draw(st.integers(0, 24)), draw(st.integers(1, 3))
    offset, scale = draw(st.sampled_from([0.0, 1e4, -1e6])), draw(st.sampled_from([1e-3, 1.0, 1e3]))
    seed = draw(st.integers(0, 2**31 - 1))
    x = torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * scale + offset).to(dtype)


@st.composite
def three_parts(draw):
    x = draw(values())
    a, b = sorted(draw(st.tuples(st.integers(0, len(x)), st.integers(0, len(x)))))
    return x[:a], x[a:b], x[b:]


def close(left: Moments, right: Moments, magnitude: float):
    """Equal but for rounding at the magnitude of the values."""
    assert torch.equal(left.count.expand_as(left.mean), right.count.expand_as(right.mean))
    torch.testing.assert_close(left.mean, right.mean, rtol=0, atol=1e-14 * magnitude)
    # A rounded mean puts n·(its error)² and the deviations' own rounding into m2.
    spread = right.m2.max().sqrt().item() if right.m2.numel() else 0.0
    torch.testing.assert_close(
        left.m2, right.m2, rtol=1e-12, atol=1e-13 * magnitude * (spread + 1e-12 * magnitude)
    )


def magnitude(x):
    return float(x.abs().max()) + 1.0 if x.numel() else 1.0


@given(three_parts())
def test_associative(parts):
    a, b, c = map(Moments.of, parts)
    close(a.merge(b).merge(c), a.merge(b.merge(c)), magnitude(torch.cat(parts)))


@given(three_parts())
def test_commutative(parts):
    a, b, _ = map(Moments.of, parts)
    close(a.merge(b), b.merge(a), magnitude(torch.cat(parts)))


@given(values())
def test_nothing_is_the_identity(x):
    whole, nothing = Moments.of(x), Moments.of(x[:0])
    for merged in (whole.merge(nothing), nothing.merge(whole)):
        assert torch.equal(merged.count, whole.count)
        assert torch.equal(merged.mean, whole.mean)
        assert torch.equal(merged.m2, whole.m2)


def test_nothing_with_nothing_is_nothing():
    nothing = Moments.of(torch.zeros(0, 2))
    merged = nothing.merge(nothing)
    assert merged.count.item() == 0
    assert merged.mean.tolist() == merged.m2.tolist() == [0, 0]


@given(values(), st.data())
def test_any_split_merges_to_the_whole(x, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=5)))
    bounds = [0, *cuts, len(x)]
    parts = [Moments.of(x[a:b]) for a, b in itertools.pairwise(bounds)]
    close(Moments.merge_all(parts), Moments.of(x), magnitude(x))


@given(st.lists(FLOATS, min_size=2, max_size=20))
def test_variance_is_the_textbooks(numbers):
    x = torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)
    found = Moments.of(x)
    for correction in (0, 1):
        torch.testing.assert_close(found.variance(correction=correction), x.var(0, correction=correction))


def test_variance_has_no_default_correction():
    with pytest.raises(TypeError):
        Moments.of(torch.ones(3, 1)).variance()


@pytest.mark.parametrize(("rows", "correction"), [(0, 0), (0, 1), (1, 1)])
def test_variance_of_too_few_values_is_nan(rows, correction):
    assert Moments.of(torch.ones(rows, 2)).variance(correction=correction).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precision(dtype):
    found = Moments.of(torch.randn(9, 3).to(dtype))
    assert (found.mean.dtype, found.m2.dtype, found.count.dtype) == (
        torch.float32,
        torch.float32,
        torch.float64,
    )


def test_a_shared_offset_costs_no_digits():
    x = (torch.randn(1000, 1, dtype=torch.float64) + 1e4).float()
    parts = [Moments.of(part) for part in x.split(37)]
    truth = x.double().var(0, correction=0)
    # 1e-4 of the variance; the difference of squares would lose all of it (1e8 in float32 has a spacing of 8).
    error = (Moments.merge_all(parts).variance(correction=0).double() - truth).abs() / truth
    assert error.item() < 1e-4
    with pytest.raises(AssertionError):
        naive = x.square().mean(0) - x.mean(0).square()
        assert_same(naive, truth, Moments.merge_all(parts).variance(correction=0))


def test_merge_per_channel_counts():
    a = Moments(torch.tensor([2.0, 0.0]).double(), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.0]))
    b = Moments(torch.tensor([0.0, 3.0]).double(), torch.tensor([0.0, 4.0]), torch.tensor([0.0, 2.0]))
    merged = a.merge(b)
    assert merged.count.tolist() == [2, 3]
    assert merged.mean.tolist() == [1, 4]
    assert merged.m2.tolist() == [0.5, 2]
