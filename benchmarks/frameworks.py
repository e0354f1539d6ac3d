"""How fast is the same training step in JAX, flax and TensorFlow, and in oneDNN's own kernel?

Each framework has a process of its own, kept alive; blocks of steps are taken in turn. Memory is recycled for all, as
some of them keep a pool of their own. What is not installed is skipped and named. `--python` gives the interpreter of
an environment that has them (default: this one); torch and batchnorm run in this one.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchnorm.bench.conditions import conditions, load
from batchnorm.bench.contenders import AGAIN, COMPILED, LAYOUTS, OURS, TORCH, Inputs, Problem
from batchnorm.bench.race import Contender, DifferenceError, Race, check_same
from benchmarks.measure import MEMORY, Case, Results, environment, folder, options, record, show, title
from benchmarks.onednn import LIBRARY, compile_step
from benchmarks.shapes import LARGE
from benchmarks.targets import ONEDNN

HERE = (TORCH, AGAIN, OURS, COMPILED)
ELSEWHERE = ("JAX", "flax", "TensorFlow")
ROUNDS, SECONDS = 7, 0.15


class Worker:
    """A process that runs one framework."""

    def __init__(self, name: str, python: str, threads: int, **variables: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.framework_worker", name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment("recycled"), **variables},
        )
        answer = self._read()
        self.missing: str | None = answer.get("missing")

    def ask(self, **request: Any) -> dict[str, Any]:
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"missing": "its process ended"}
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": "its process ended"}

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


def start(python: str, threads: int, scratch: Path) -> tuple[list[Worker], dict[str, str]]:
    """The workers that could start, and why the others could not."""
    prefix = subprocess.run(
        [python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    onednn = compile_step(Path(prefix.stdout.strip()), scratch)
    workers, skipped = [], {}
    for name in (*HERE, *ELSEWHERE, ONEDNN):
        if name == ONEDNN and isinstance(onednn, str):
            skipped[name] = onednn
            continue
        interpreter = sys.executable if name in (*HERE, ONEDNN) else python
        worker = Worker(name, interpreter, threads, **{LIBRARY: str(onednn)})
        if worker.missing is None:
            workers.append(worker)
        else:
            skipped[name] = worker.missing
    return workers, skipped


def compare(workers: Sequence[Worker], problem: Problem, scratch: Path) -> list[Worker]:
    """Give every worker the same inputs; those that compute the same remain."""
    inputs = Inputs.of(problem)
    named = {"x": inputs.x, "dy": inputs.dy, "scale": inputs.weight, "shift": inputs.bias}
    np.savez(scratch / "in.npz", **{n: t.detach().contiguous().numpy() for n, t in named.items()})
    found: dict[str, list[torch.Tensor]] = {}
    remaining = []
    for worker in workers:
        where = scratch / "out.npz"
        answer = worker.ask(inputs=str(scratch / "in.npz"), outputs=str(where), layout=problem.layout)
        if "done" not in answer:
            print(f"{worker.name}: {answer}", flush=True)
            continue
        with np.load(where) as arrays:
            found[worker.name] = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays.values()]
        try:
            check_same(
                [_as_contender(TORCH, found[TORCH]), _as_contender(worker.name, found[worker.name])],
                problem.tolerance,
            )
        except DifferenceError as error:
            print(f"{worker.name}: {error}", flush=True)
            continue
        remaining.append(worker)
    return remaining


def _as_contender(name: str, results: Sequence[torch.Tensor]) -> Contender:
    return Contender(name, lambda: list(results))


def cases() -> list[Case]:
    """The names of what is measured; it is run by this script's own loop."""
    return [
        Case(title(Problem(shape, "relu", False, layout), "recycled"), list, (*HERE, *ELSEWHERE, ONEDNN))
        for shape in LARGE[:3]
        for layout in LAYOUTS
    ]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has JAX, flax, TensorFlow")
    arguments = parser.parse_args()
    path = folder(arguments) / "frameworks.json"
    results = Results(
        "frameworks",
        {"recycled": {**conditions(), "memory": "recycled", "memory_variables": MEMORY["recycled"]}},
    )
    problems = [Problem(s, "relu", False, layout) for s in LARGE[:3] for layout in LAYOUTS]
    with tempfile.TemporaryDirectory() as scratch:
        workers, missing = start(arguments.python, arguments.threads, Path(scratch))
        for name, reason in missing.items():
            print(f"{name}: skipped, {reason}", flush=True)
        results.skipped = dict(missing)
        for problem in problems[2:4] if arguments.quick else problems:
            before = load()
            racers = compare(workers, problem, Path(scratch))
            step: dict[str, list[float]] = {worker.name: [] for worker in racers}
            for number in range(ROUNDS + 1):
                for worker in racers:
                    seconds = worker.ask(seconds=SECONDS)["seconds"]
                    # The first round warms up.
                    if number:
                        step[worker.name].append(seconds)
            race = Race(step, step)
            name = title(problem, "recycled")
            results.cases[name] = record(race, memory="recycled", load=before)
            results.write(path)
            show(name, race, 0)
    for worker in workers:
        worker.stop()
    results.complete = True
    results.write(path)


if __name__ == "__main__":
    main()
