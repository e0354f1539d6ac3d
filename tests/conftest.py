"""What every test gets: options, deterministic randomness, NaN-filled allocations, and a count of the cases at the end.

Test modules that have a small and a full list of cases ask `support.options.full_product()` while they are collected.
"""

import ctypes
import os
from collections import Counter

import hypothesis
import pytest
import torch

DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has one core; a child process that a test starts gets no more.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

# Deterministic everywhere: a failure names its case, and the next run has it too. `tools/fuzz.py` searches at random.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser):
    group = parser.getgroup("batchnorm")
    group.addoption("--all", action="store_true", help="the full product of cases, and the slow tests")
    group.addoption(
        "--device", default="cpu", help="device of the tests that take one: cpu (default), cuda, ..."
    )
    group.addoption(
        "--dtype", nargs="*", default=list(DTYPES), choices=list(DTYPES), help="dtypes of the fixture `dtype`"
    )


def pytest_configure(config):
    # Modules are collected without a config in their hands, in xdist's workers too: the environment reaches them.
    if config.getoption("--all"):
        os.environ["BATCHNORM_TESTS_ALL"] = "1"


def pytest_generate_tests(metafunc):
    if "dtype" in metafunc.fixturenames and not any(
        "dtype" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")
    ):
        names = metafunc.config.getoption("--dtype")
        metafunc.parametrize("dtype", [DTYPES[name] for name in names], ids=names)


def pytest_collection_modifyitems(config, items):
    """Skip what this machine or this run does not have; a test named on the command line always runs."""
    named = (
        any("::" in argument for argument in config.args) or config.option.markexpr or config.option.keyword
    )
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("slow") and not config.getoption("--all") and not named:
            item.add_marker(pytest.mark.skip(reason="slow: runs with --all (make test-all)"))


@pytest.fixture(scope="session")
def device(request):
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def same_state_before_and_after():
    """Seed torch, and take back what a test changes in torch's global state."""
    threads, dtype, grad = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)


@pytest.fixture(autouse=True)
def nan_filled_allocations(request):
    """Fill fresh memory with ones in every bit, which is NaN in every floating type: an unwritten element shows.

    The C library does it, in malloc, so it reaches every tensor, whoever allocates it: `torch.empty` and its relatives,
    torch's operators, and the C++ kernels. torch's own `fill_uninitialized_memory` would not do: the allocations of
    C++ extensions pass it by, and it is part of deterministic mode, which changes what torch computes with.
    """
    fill_fresh_memory("as_allocated" not in request.fixturenames)
    yield
    fill_fresh_memory(False)


def fill_fresh_memory(on):
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # glibc's M_PERTURB fills with the complement of the low byte; 0 as a whole would turn it off.
        mallopt(-6, 0x100 if on else 0)


@pytest.fixture
def as_allocated():
    """Ask for this where allocations must stay as they come: measuring memory or time."""


def pytest_terminal_summary(terminalreporter):
    """One line: how many cases ran in each part, so that a case list that became empty is seen."""
    counts = Counter()
    for outcome in ("passed", "failed", "xfailed", "xpassed"):
        for report in terminalreporter.stats.get(outcome, []):
            path = report.nodeid.partition("::")[0].split("/")
            counts["/".join(path[:2]).removesuffix(".py")] += 1
    parts = ", ".join(f"{part} {count}" for part, count in sorted(counts.items()))
    full = "full product" if os.environ.get("BATCHNORM_TESTS_ALL") else "small product"
    terminalreporter.write_line(f"cases ({full}): {parts}")
