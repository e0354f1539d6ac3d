"""What a time depends on besides the code: processor, instruction set, threads, versions, memory, load."""

import datetime
import os
import platform
from pathlib import Path
from typing import Any, Final

import torch

import batchnorm
from batchnorm import kernels

__all__ = ["conditions", "lines", "load", "memory_setting"]

# Settings of malloc and of torch's allocator that decide whether a fresh tensor costs page faults.
_MEMORY_VARIABLES: Final = (
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "THP_MEM_ALLOC_ENABLE",
)
_HUGE_PAGES: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_LAST_CACHE: Final = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


def conditions() -> dict[str, Any]:
    """Everything that should be written beside a time, as plain values."""
    return {
        "processor": processor(),
        "last_level_cache": _first_line(_LAST_CACHE),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": kernels.describe("cpu"),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "batchnorm": batchnorm.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "huge_pages": _chosen(_first_line(_HUGE_PAGES)),
        "memory": memory_setting(),
        "memory_variables": {name: os.environ[name] for name in _MEMORY_VARIABLES if name in os.environ},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "load": load(),
    }


def memory_setting() -> str:
    """This process' memory: "default", "recycled" (never given back), "huge pages" (by torch) or "other"."""
    found = {name for name in _MEMORY_VARIABLES if os.environ.get(name)}
    if not found:
        return "default"
    if found == {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}:
        return "recycled"
    return "huge pages" if found == {"THP_MEM_ALLOC_ENABLE"} else "other"


def lines(found: dict[str, Any]) -> list[str]:
    """The conditions in a few lines of text, to stand under a table or a plot."""
    cache = f", {found['last_level_cache']} last-level cache" if found["last_level_cache"] else ""
    variables = " ".join(f"{name}={value}" for name, value in found["memory_variables"].items())
    memory = f"memory: {found['memory']} ({variables})" if variables else f"memory: {found['memory']} malloc"
    average = "" if found["load"] is None else f", load {found['load']:.1f} at the start"
    return [
        f"{found['processor']}, {found['cores']} cores{cache}; {found['threads']} threads",
        f"torch {found['torch']} ({found['torch_instruction_set']}), "
        f"batchnorm {found['batchnorm']}: {found['kernels']}",
        f"{memory} of {found['libc']}; transparent huge pages: {found['huge_pages']}",
        f"Python {found['python']}, {found['system']}, {found['date']}{average}",
    ]


def load() -> float | None:
    """Processes that ran or wanted to run in the last minute, on average."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def processor() -> str:
    """The processor's name, as far as the system tells."""
    description = Path("/proc/cpuinfo")
    if description.is_file():
        for line in description.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip().partition("\n")[0]
    except OSError:
        return None


def _chosen(text: str | None) -> str | None:
    """The word in brackets of "always [madvise] never"."""
    return None if text is None else text.partition("[")[2].partition("]")[0] or text
