from collections.abc import Iterator

import pytest

import batchnorm as bn


@pytest.fixture(params=["kernel", "native"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Everything inside runs on the named backend, or raises."""
    with bn.functional.backend(request.param):
        yield request.param
