"""The run's options, as a module can ask for them while it is collected."""

import os


def full_product() -> bool:
    """Whether this run wants every case (`--all`), not the short list."""
    return "BATCHNORM_TESTS_ALL" in os.environ
