"""Batch normalization as stateless calls, and the choice of the code that runs them."""

from batchnorm.functional.batch_norm import batch_norm, batch_norm_with_statistics
from batchnorm.functional.plan import backend, calls

__all__ = ["backend", "batch_norm", "batch_norm_with_statistics", "calls"]
