"""Build the CPU kernels with the address and undefined-behaviour sanitizers, and run their tests on that build."""

import os
import subprocess
import sys
from pathlib import Path

LIBRARY = Path("build/sanitized/_kernels.so").absolute()
TESTS = ["tests/kernels"]


def main(arguments: list[str]) -> int:
    """The exit status of the tests."""
    compiler = os.environ.get("CXX", "g++")
    environment = {**os.environ, "BATCHNORM_LIBRARY": str(LIBRARY)}
    build = [sys.executable, "setup.py", "build_ext", "--build-temp", str(LIBRARY.parent / "objects")]
    subprocess.run(build, check=True, env={**environment, "BATCHNORM_SANITIZE": "1"})
    if not LIBRARY.exists():
        print("the sanitized library was not built (see above): nothing was tested", file=sys.stderr)
        return 1
    runtimes = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment |= {
        # Python itself is not built with the sanitizers, so their runtimes must be there before it starts.
        "LD_PRELOAD": " ".join(runtimes),
        # Python keeps memory until it exits; leaks are not what is looked for.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    test = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-q", *TESTS, *arguments]
    return subprocess.run(test, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
