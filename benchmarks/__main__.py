"""Run every script, judge the targets, draw the plot: `python -m benchmarks`, about 25 minutes; `--quick` a look.

Each script runs in a process of its own. `--resume` keeps what scripts of an earlier start have finished; `--report`
only judges and draws what is there.
"""

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from batchnorm.bench.conditions import lines
from benchmarks import plot, report, targets
from benchmarks.measure import RESULTS, Results, environment, folder, options

SCRIPTS = (
    "small",
    "steps",
    "recycled",
    "memory_speed",
    "evaluation",
    "bf16",
    "worst",
    "models",
    "compiled",
    "frameworks",
)


TOUCH = """
import os, torch
available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
torch.empty(available // 2, dtype=torch.uint8).fill_(1)
"""


def touch_memory() -> None:
    """Write to half of the free memory once, in a process of its own.

    The host of a virtual machine hands memory out at the first touch. That takes many times longer than a page fault,
    and hits whoever happens to be given a page that nobody has had yet: with huge pages that is often us.
    """
    subprocess.run([sys.executable, "-c", TOUCH], env=environment("huge pages"), check=False)


def finished(path: Path) -> bool:
    return path.exists() and Results.read(path).complete


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("scripts", nargs="*", choices=[[], *SCRIPTS], help="default: all")
    parser.add_argument("--resume", action="store_true", help="keep scripts that an earlier start finished")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has JAX, flax, TensorFlow")
    arguments = parser.parse_args()
    out = folder(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    failed = []
    scripts = [] if arguments.report else arguments.scripts or SCRIPTS
    if scripts and not arguments.quick:
        touch_memory()
    for script in scripts:
        if arguments.resume and finished(out / f"{script}.json"):
            console.print(f"{script}: kept")
            continue
        command = [sys.executable, "-m", f"benchmarks.{script}", "--out", str(out)]
        command += ["--threads", str(arguments.threads)] + ["--quick"] * arguments.quick
        command += ["--python", arguments.python] if script == "frameworks" else []
        console.print(f"\n{script}", style="bold")
        start = time.monotonic()
        if subprocess.run(command, env=environment("default"), check=False).returncode:
            failed.append(script)
        console.print(f"{script}: {time.monotonic() - start:.0f} s")
    results = report.load(out)
    judged = list(targets.judge(targets.read(), results))
    report.print_targets(console, results, judged)
    for line in next((lines(c) for r in results.values() for c in r.conditions.values()), []):
        console.print(line, style="dim", markup=False)
    if "steps" in results or "recycled" in results:
        drawing = report.PLOT if out == RESULTS else out / "bench.svg"
        drawing.parent.mkdir(parents=True, exist_ok=True)
        drawing.write_text(plot.draw(results), encoding="utf-8")
        console.print(f"plot: {drawing}", markup=False)
    if out == RESULTS:
        report.write_page(results, judged)
    for script in failed:
        console.print(f"{script} did not finish", style="bold red")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
