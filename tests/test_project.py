"""What holds for the package as a whole: its import, its wheel's contents, and the settings of these tests."""

import ctypes
import importlib.metadata
import json
import platform
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


def empty_from_c(size):
    """A tensor's memory as C++ extensions get it through torch's stable ABI (never freed: the test ends first)."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
    sizes, strides, dtype = (
        (ctypes.c_int64 * 1)(size),
        (ctypes.c_int64 * 1)(1),
        library.aoti_torch_dtype_float32(),
    )
    tensor, data = ctypes.c_void_p(), ctypes.c_void_p()
    one = ctypes.c_int64(1)
    library.aoti_torch_empty_strided(one, sizes, strides, dtype, 0, 0, ctypes.byref(tensor))
    library.aoti_torch_get_data_ptr(tensor, ctypes.byref(data))
    return torch.frombuffer((ctypes.c_float * size).from_address(data.value), dtype=torch.float32)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no switch for it")
@pytest.mark.parametrize("size", [3, 1000, 1_000_000])
def test_fresh_memory_is_nan(size):
    torch.ones(size)  # leaves its block to the next
    like = torch.zeros(size)
    fresh = {
        "empty": torch.empty(size),
        "empty_like": torch.empty_like(like),
        "new_empty": like.new_empty(size),
        "bf16": torch.empty(size, dtype=torch.bfloat16),
        "C++": empty_from_c(size),
    }
    assert {name: bool(values.isnan().all()) for name, values in fresh.items()} == dict.fromkeys(fresh, True)


def test_fresh_memory_stays_as_it_comes_where_a_test_asks(as_allocated):
    fresh = [torch.empty(1_000_000 + n) for n in range(4)]
    assert not all(values.isnan().all() for values in fresh)


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
