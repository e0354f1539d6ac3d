"""oneDNN's own batch norm, which torch does not reach: `onednn_step.cpp`, compiled on the fly and called by ctypes."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("onednn_step.cpp")
LIBRARY = "BATCHNORM_BENCH_ONEDNN"

Step = Callable[[], list[np.ndarray]]


def compile_step(prefix: Path, folder: Path) -> Path | str:
    """The compiled library, or why there is none. `prefix` has include/oneapi and lib/libdnnl.so."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "there is no C++ compiler"
    if not (prefix / "include" / "oneapi" / "dnnl" / "dnnl.hpp").exists():
        return f"oneDNN is not installed (pip install onednn-cpu-gomp onednn-devel-cpu-gomp) in {prefix.name}"
    target, where = folder / "onednn_step.so", prefix / "lib"
    command = [compiler, "-O2", "-shared", "-fPIC", f"-I{prefix / 'include'}", str(SOURCE), f"-L{where}"]
    command += ["-ldnnl", f"-Wl,-rpath,{where}", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return target if done.returncode == 0 else done.stderr.strip().partition("\n")[0]


def run_onednn(kind: str) -> Callable[[dict, str], tuple[Callable[[], object], Step]]:
    """Like the other frameworks of `framework_worker.py`; the library's path is in the environment."""
    os.environ["OMP_NUM_THREADS"] = sys.argv[2]
    if LIBRARY not in os.environ:
        raise ImportError("oneDNN's library was not built")
    library = ctypes.CDLL(os.environ[LIBRARY])
    library.step_new.restype = ctypes.c_void_p
    size = ctypes.c_int64

    def pointers(arrays: list[np.ndarray]) -> list[ctypes.c_void_p]:
        return [a.ctypes.data_as(ctypes.c_void_p) for a in arrays]

    def build(arrays: dict, layout: str) -> tuple[Callable[[], object], Step]:
        made = library.step_new(*map(size, arrays["x"].shape), int(layout == "channels_last"))
        if not made:
            raise RuntimeError("oneDNN has no implementation for this shape")
        handle = ctypes.c_void_p(made)
        library.step_set(handle, *pointers([arrays[name] for name in ("x", "dy", "scale", "shift")]))

        def step() -> None:
            library.step_run(handle)

        def results() -> list[np.ndarray]:
            step()
            found = [np.empty_like(arrays[name]) for name in ("x", "x", "scale", "shift")]
            library.step_get(handle, *pointers(found))
            return found

        return step, results

    return build
