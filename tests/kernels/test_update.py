"""`update_`: one step of the running statistics, per channel, in every mixture of dtypes."""

import itertools

import pytest
import torch

ops = torch.ops.batchnorm
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def moments(mean, m2, count=8.0, dtype=torch.float32):
    return torch.tensor([count]).double(), torch.tensor([mean], dtype=dtype), torch.tensor([m2], dtype=dtype)


@pytest.mark.parametrize("of_statistics", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("of_mean", "of_var"), list(itertools.product(DTYPES, DTYPES)), ids=str)
def test_every_mixture_of_dtypes(of_mean, of_var, of_statistics):
    mean, var, batches = torch.zeros(2, dtype=of_mean), torch.ones(2, dtype=of_var), torch.tensor(0)
    ops.update_(mean, var, batches, *moments([1.0, -2.0], [7.0, 14.0], dtype=of_statistics), 0.25)
    assert mean.tolist() == [0.25, -0.5]
    assert var.tolist() == [1.0, 1.25]
    assert batches.item() == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["mean", "m2"])
def test_a_channel_that_is_not_finite_stays_and_the_others_move(where, value):
    mean, var, batches = torch.tensor([5.0, 5.0]), torch.tensor([3.0, 3.0]), torch.tensor(4)
    bad = {"mean": ([value, 1.0], [7.0, 7.0]), "m2": ([1.0, 1.0], [value, 7.0])}[where]
    ops.update_(mean, var, batches, *moments(*bad), 0.5)
    assert (mean.tolist(), var.tolist(), batches.item()) == ([5.0, 3.0], [3.0, 2.0], 5)


def test_finite_means_in_the_buffers_dtype():
    mean, var = torch.tensor([1.0, 1.0], dtype=torch.float16), torch.tensor([1.0, 1.0], dtype=torch.float16)
    ops.update_(mean, var, None, *moments([2.0, 2.0], [7e5 * 7, 7.0]), 0.5)
    assert (mean.tolist(), var.tolist()) == ([1.0, 1.5], [1.0, 1.0])


@pytest.mark.parametrize("count", [0.0, 1.0])
def test_too_few_values_move_nothing_but_the_counter(count):
    mean, var, batches = torch.tensor([5.0]), torch.tensor([3.0]), torch.tensor(0)
    ops.update_(mean, var, batches, *moments([1.0], [0.0], count), 0.5)
    assert (mean.item(), var.item(), batches.item()) == (5.0, 3.0, 1)


def test_counts_of_their_own():
    mean, var = torch.zeros(2), torch.zeros(2)
    count = torch.tensor([3.0, 1.0]).double()
    ops.update_(mean, var, None, count, torch.ones(2), torch.full((2,), 4.0), 1.0)
    assert (mean.tolist(), var.tolist()) == ([1.0, 0.0], [2.0, 0.0])


def test_no_momentum_is_the_average_of_all_batches():
    mean, var, batches = torch.zeros(1), torch.ones(1), torch.tensor(0)
    for value in (1.0, 2.0, 6.0):
        ops.update_(mean, var, batches, *moments([value], [7 * value]), None)
    assert (mean.item(), var.item(), batches.item()) == (3.0, 3.0, 3)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_buffer_may_be_missing(which):
    buffers = [torch.zeros(1), torch.ones(1), torch.tensor(0)]
    buffers[which] = None
    ops.update_(*buffers, *moments([1.0], [7.0]), 0.5)
    if which == 2:
        assert buffers[0].item() == 0.5
    else:
        assert buffers[2].item() == 1
