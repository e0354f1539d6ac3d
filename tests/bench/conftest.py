"""The scripts in benchmarks/ are not part of the package: they are found from the repository's root."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Clock:
    """A clock that moves only when somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
