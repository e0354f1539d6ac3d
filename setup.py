"""Builds the CPU kernels: the compiler once per instruction set, against the headers of the torch that is installed.

Without torch or without a compiler the package installs all the same, on its plain-torch path, and says so.
BATCHNORM_SANITIZE=1 builds with ASan and UBSan; BATCHNORM_LIBRARY names another file to build.
"""

import importlib.util
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("src/batchnorm/kernels/cpu")
ISAS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    ISAS = {
        "baseline": ["-march=x86-64"],
        "avx2": ["-march=x86-64-v3"],
        "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
        "avx512_bf16": ["-march=x86-64-v4", "-mavx512bf16", "-mprefer-vector-width=512"],
    }
FLAGS = [
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-maybe-uninitialized",
]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
SANITIZE = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer"]


class BuildKernels(build_ext):
    """One object file per instruction set and one for the binding, linked into one library without Python in it."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        try:
            self._build(os.environ.get("BATCHNORM_LIBRARY") or self.get_ext_fullpath(ext.name))
        except (OSError, RuntimeError, subprocess.CalledProcessError) as reason:
            print(
                f"batchnorm: CPU kernels not built, the plain-torch path will serve: {reason}",
                file=sys.stderr,
            )

    def _build(self, library: str) -> None:
        torch = importlib.util.find_spec("torch")
        if torch is None or torch.origin is None:
            raise RuntimeError("torch is not installed here (pip install -e . --no-build-isolation finds it)")
        root, objects = Path(torch.origin).parent, Path(self.build_temp)
        for folder in (objects, Path(library).parent):
            folder.mkdir(parents=True, exist_ok=True)
        compiler = [os.environ.get("CXX", "g++")]
        extra = SANITIZE if os.environ.get("BATCHNORM_SANITIZE") else []
        jobs = [("kernels.cpp", isa, [*flags, f"-DISA={isa}"]) for isa, flags in ISAS.items()]
        jobs += [
            ("bind.cpp", "bind", ["-isystem", f"{root}/include", "-DTORCH_TARGET_VERSION=0x020a000000000000"])
        ]

        def compile_one(job: tuple[str, str, list[str]]) -> str:
            source, name, flags = job
            out = str(objects / f"{name}.o")
            subprocess.run(
                [*compiler, *FLAGS, *extra, *flags, "-c", str(SOURCES / source), "-o", out], check=True
            )
            return out

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            files = list(pool.map(compile_one, jobs))
        subprocess.run(
            [*compiler, "-shared", *extra, "-o", library, *files, f"-L{root}/lib", "-ltorch_cpu"], check=True
        )


class AnyPython(bdist_wheel):
    """The library has no Python in it, so one wheel serves every Python 3 of a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("batchnorm.kernels.cpu._kernels", [])],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython},
)
