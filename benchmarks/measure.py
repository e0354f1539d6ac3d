"""Runs the cases of one script and writes every repeat with its conditions. Judging and drawing are elsewhere."""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from batchnorm.bench.conditions import conditions, load, memory_setting
from batchnorm.bench.contenders import AGAIN, OURS, TORCH, Problem, contenders
from batchnorm.bench.race import Contender, Race, race
from batchnorm.bench.table import factor
from batchnorm.core.errors import BatchNormError

RESULTS = Path(__file__).parent / "results"
SOURCES = Path(__file__).parents[1] / "src"

# What a process must be started with, by the name that `conditions.memory_setting` gives it. "recycled": glibc keeps
# what it once had, so that a large tensor costs no page faults. "huge pages": torch's own switch, for both sides.
MEMORY = {
    "default": {},
    "recycled": {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**40)},
    "huge pages": {"THP_MEM_ALLOC_ENABLE": "1"},
}


@dataclass(frozen=True)
class Case:
    """One row of a table: what races, how long, and in which memory. Its name is how targets refer to it."""

    name: str
    make: Callable[[], Sequence[Contender]]
    racers: tuple[str, ...]
    tolerance: float | None = 2e-3
    seconds: float = 2.5
    rounds: tuple[int, int] = (9, 41)
    memory: str = "default"
    quick: bool = False

    @classmethod
    def of(cls, problem: Problem, racers: tuple[str, ...] = (TORCH, AGAIN, OURS), **options: Any) -> "Case":
        """The case of one batch norm problem."""
        name = title(problem, options.get("memory", "default"))
        return cls(name, lambda: contenders(problem, racers), racers, problem.tolerance, **options)


def title(problem: Problem, memory: str = "default") -> str:
    return str(problem) if memory == "default" else f"{problem}, {memory}"


@dataclass
class Results:
    """What a script found, as it stands in its JSON file."""

    script: str
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    @classmethod
    def read(cls, path: Path) -> "Results":
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One line a case: short enough to commit, and a change of one case is a change of one line.
        parts = {
            key: json.dumps(value, ensure_ascii=False) for key, value in vars(self).items() if key != "cases"
        }
        cases = ",\n  ".join(
            f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(case, ensure_ascii=False)}"
            for name, case in self.cases.items()
        )
        parts["cases"] = f"{{\n  {cases}\n }}" if cases else "{}"
        body = ",\n ".join(f'"{key}": {text}' for key, text in parts.items())
        partial = path.with_suffix(".partial")
        partial.write_text(f"{{\n {body}\n}}\n", encoding="utf-8")
        partial.replace(path)

    def race(self, name: str) -> Race | None:
        case = self.cases.get(name)
        return None if case is None else Race(case["forward"], case["step"], case["steps_per_round"])


def record(result: Race, **more: Any) -> dict[str, Any]:
    """A race as JSON: seconds with four digits."""
    rounded = [
        {name: [float(f"{s:.4g}") for s in seconds] for name, seconds in part.items()}
        for part in (result.forward, result.step)
    ]
    return {"steps_per_round": result.steps_per_round, "forward": rounded[0], "step": rounded[1], **more}


def options(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, help="folder of the JSON files (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="a few cases, short: a look, not a result")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's")
    return parser


def folder(arguments: argparse.Namespace) -> Path:
    """Where results go: a quick look never replaces a full run."""
    return arguments.out or (RESULTS / "local" if arguments.quick else RESULTS)


def main(script: str, cases: Sequence[Case], description: str | None) -> None:
    """The command line of a script: measure its cases, each in a process with the memory that it asks for."""
    parser = options(description)
    parser.add_argument("--only-memory", choices=MEMORY, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = folder(arguments) / f"{script}.json"
    wanted = [case for case in cases if case.quick or not arguments.quick]
    if arguments.only_memory:
        _measure(path, [c for c in wanted if c.memory == arguments.only_memory], quick=arguments.quick)
        return
    Results(script).write(path)
    for memory in dict.fromkeys(case.memory for case in wanted):
        command = [sys.executable, "-m", f"benchmarks.{script}", "--only-memory", memory, *sys.argv[1:]]
        subprocess.run(command, env=environment(memory), check=True)
    results = Results.read(path)
    results.complete = True
    results.write(path)


def environment(memory: str) -> dict[str, str]:
    """This process' environment with the memory setting, and with our sources on the path."""
    kept = {name: value for name, value in os.environ.items() if not any(name in m for m in MEMORY.values())}
    path = os.pathsep.join([str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, **MEMORY[memory], "PYTHONPATH": path}


def _measure(path: Path, cases: Sequence[Case], *, quick: bool) -> None:
    results = Results.read(path)
    results.conditions[memory_setting()] = conditions()
    for case in cases:
        start, before = time.perf_counter(), load()
        # Compiled code of earlier cases goes, so that each case compiles its own.
        torch._dynamo.reset()
        seconds = min(case.seconds, 0.5) if quick else case.seconds
        rounds = (min(5, case.rounds[0]), case.rounds[1]) if quick else case.rounds
        try:
            result = race(case.make(), seconds=seconds, rounds=rounds, tolerance=case.tolerance)
        except (RuntimeError, BatchNormError) as error:
            # The other cases are still worth their time; this one stands in the table as not measured.
            results.skipped[case.name] = str(error).strip().partition("\n")[0]
            results.write(path)
            print(f"{case.name}: NOT MEASURED: {error}", flush=True)
            continue
        gc.collect()
        results.cases[case.name] = record(result, memory=case.memory, load=before)
        results.write(path)
        show(case.name, result, time.perf_counter() - start)


def show(name: str, result: Race, took: float) -> None:
    """One line a case while it runs: how many times longer the first contender takes than each other one."""
    first, *others = result.names
    ratios = "  ".join(f"{other} {factor(result.ratio(first, other))}" for other in others)
    print(
        f"{name}: {first} {result.seconds(first).median * 1e3:.3g} ms | {ratios}  [{took:.0f} s]", flush=True
    )
