"""What holds for the package as a whole: its import, its wheel's contents, and the settings of these tests."""

import importlib.metadata
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import batchnorm

ROOT = Path(__file__).parents[1]

# What an import adds to what torch has imported already: top-level packages, and seconds of this process.
PROBE = """
import json, sys, time
import torch
before = set(sys.modules)
start = time.process_time()
import {package}
seconds = time.process_time() - start
added = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps([seconds, sorted(added - set(sys.stdlib_module_names) - {{"torch", "{package}"}})]))
"""


def probe(package, *search_path):
    command = [sys.executable, "-c", PROBE.format(package=package)]
    environment = {"PYTHONPATH": ":".join(map(str, search_path)), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def greedy(tmp_path):
    """A package that imports what ours must not, and takes its time."""
    (tmp_path / "greedy.py").write_text(
        textwrap.dedent("""
            import time
            import jinja2.sandbox
            import scipy
            end = time.process_time() + 0.5
            while time.process_time() < end:
                pass
        """)
    )
    return tmp_path


def test_import_needs_torch_and_the_standard_library_alone():
    _, foreign = probe("batchnorm", *sys.path[1:])
    assert foreign == []


def test_import_takes_almost_no_time_beyond_torchs():
    seconds = min(probe("batchnorm", *sys.path[1:])[0] for _ in range(3))
    assert seconds < 0.2


def test_the_import_tests_can_fail(greedy):
    seconds, foreign = probe("greedy", greedy, *sys.path[1:])
    assert "scipy" in foreign
    assert seconds > 0.5


def test_one_version():
    assert importlib.metadata.version("batchnorm") == batchnorm.__version__
    assert f"## [{batchnorm.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_package_is_typed():
    assert (Path(batchnorm.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=["fp32", "bf16", "int64"])
def test_allocations_are_filled(dtype):
    like = torch.zeros(3, dtype=dtype)
    fill = torch.iinfo(dtype).max if not dtype.is_floating_point else float("nan")
    expected = torch.full((3,), fill, dtype=dtype)
    stable = torch.ops.aten.empty.memory_format([3], dtype=dtype)
    for actual in (torch.empty(3, dtype=dtype), torch.empty_like(like), like.new_empty(3), stable):
        torch.testing.assert_close(actual, expected, equal_nan=True, rtol=0, atol=0)


def test_allocations_stay_as_they_come_where_a_test_asks(as_allocated):
    assert not torch.are_deterministic_algorithms_enabled()


def test_no_file_cites_the_machine_it_was_written_on():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    if not listed:
        pytest.skip("not a git checkout")
    needles = [f"/{folder}/" for folder in ("work", "home", "root", "tmp")] + [
        "../" + "shared",
        "shared" + "/",
    ]
    citing = [
        f"{name}: {needle}"
        for name in listed.splitlines()
        if (ROOT / name).suffix in {".py", ".md", ".toml", ".yml", ".h", ".cpp", ".cff"}
        and name != "tests/test_project.py"
        for needle in needles
        if needle in (ROOT / name).read_text(errors="ignore")
    ]
    assert citing == []
