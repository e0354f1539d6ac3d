"""The list of cases has every pair, and the oracle is right on a case done by hand."""

import itertools
import math

import pytest
import torch

from support import oracle, product
from support.pairs import all_pairs


def test_every_pair_occurs():
    cases = product.short_list()
    for a, b in itertools.combinations(product.OPTIONS, 2):
        found = {(case[a], case[b]) for case in cases}
        assert found == set(itertools.product(product.OPTIONS[a], product.OPTIONS[b])), (a, b)
    assert len(cases) < 200


def test_the_list_is_the_same_each_time():
    assert all_pairs(product.OPTIONS) == all_pairs(product.OPTIONS)


def test_oracle_by_hand():
    x = torch.tensor([[1.0], [2.0], [6.0]])
    truth = oracle.batch_norm(x, torch.tensor([2.0]), torch.tensor([0.5]), eps=0.0, dy=torch.ones(3, 1))
    deviation = math.sqrt(14 / 3)
    expected = [2 * (v - 3) / deviation + 0.5 for v in (1, 2, 6)]
    assert truth.y.flatten().tolist() == pytest.approx(expected, rel=1e-14)
    assert truth.unbiased.item() == pytest.approx(7, rel=1e-14)
    assert truth.gradients["bias"].item() == 3
    assert truth.gradients["x"].flatten().tolist() == pytest.approx([0, 0, 0], abs=1e-14)
