from collections.abc import Iterator
from typing import Any

import pytest
from torch import nn

import batchnorm as bn
from support.pains import OURS, TORCH


@pytest.fixture
def layers(whose: str) -> Iterator[Any]:
    """The package that the layers of a test come from: torch's, or ours on one backend."""
    if whose == TORCH:
        yield nn
    else:
        with bn.functional.backend("kernel" if whose == OURS[0] else "native"):
            yield bn
