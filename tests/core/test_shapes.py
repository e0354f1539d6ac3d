"""The view of an input as (N, C, L), its memory format against torch's own output, and the size of the bits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchnorm.core import shapes
from support import cases


@pytest.mark.parametrize("shape", cases.SHAPES)
def test_positions(shape):
    sizes = cases.SHAPES[shape]
    assert shapes.positions(torch.empty(sizes)) == torch.Size(sizes[2:]).numel()


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("shape", [name for name in cases.SHAPES if name != "empty"])
def test_memory_format_is_that_of_torchs_output(shape, layout):
    x = cases.make(shape=shape, layout=layout).x.detach()
    y = torch.nn.functional.batch_norm(x, None, None, training=True)
    assert y.is_contiguous(memory_format=shapes.memory_format(x))


@st.composite
def strided(draw):
    """A tensor with any order of dimensions and gaps."""
    dims = draw(st.integers(2, 5))
    sizes = draw(st.lists(st.integers(1, 4), min_size=dims, max_size=dims))
    order = draw(st.permutations(range(dims)))
    steps = draw(st.lists(st.integers(1, 2), min_size=dims, max_size=dims))
    stored = torch.randn([sizes[d] * steps[d] for d in order])
    back = [order.index(d) for d in range(dims)]
    return stored.permute(back)[tuple(slice(None, None, step) for step in steps)]


@given(strided())
def test_output_strides_are_torchs_for_any_strides(x):
    if x.numel() == x.size(1):
        return
    dense = shapes.to_dense(x)
    y = torch.nn.functional.batch_norm(x, None, None, training=True)
    assert torch.equal(dense, x)
    real = [d for d in range(x.dim()) if x.size(d) > 1]
    assert [dense.stride(d) for d in real] == [y.stride(d) for d in real]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", cases.SHAPES)
def test_bits_are_whole_bytes_of_a_row(shape, layout):
    x = cases.make(shape=shape, layout=layout).x
    rows, width = shapes.bits_shape(x)
    values = x.size(1) if shapes.is_channels_last(x) else shapes.positions(x)
    assert rows * values == x.numel()
    assert 8 * (width - 1) < values <= 8 * width


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_accumulation_dtype(dtype, expected):
    assert shapes.accumulation_dtype(dtype) == expected
