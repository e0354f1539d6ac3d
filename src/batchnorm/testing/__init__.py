"""Comparisons that know how accurate torch itself is."""

from batchnorm.testing.compare import Comparison, assert_same, compare

__all__ = ["Comparison", "assert_same", "compare"]
