"""A short random search; `make fuzz` is the long one."""

import pytest

from batchnorm import kernels
from support import random_cases

pytestmark = pytest.mark.skipif(not kernels.available("cpu"), reason="the CPU kernels are not built")


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_random_configurations(start):
    judged = sum(random_cases.check(seed) for seed in range(start, start + 50))
    assert judged > 40
