"""oneDNN's own batch norm primitive as a program that answers like `framework_worker.py`, compiled on the fly.

A bound, not a rival: it writes into memory that is there already, and updates no running statistics.
"""

from pathlib import Path

ONEDNN_WORKER = Path(__file__).with_name("onednn_worker.cpp")


def build_onednn(python: str) -> list[str] | str:
    """The command that starts it, or why there is none."""
    return "not written yet"
