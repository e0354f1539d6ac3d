"""Runs a plan in a pool of single-thread processes; records each finished run, and runs none of them again.

A run itself is in `train.py`; the file of records is in `records.py`.
"""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import filelock
import joblib
import torch

from batchnorm.study import conditions, data, measure, registry
from batchnorm.study.errors import StudyError
from batchnorm.study.experiment import Job, Plan
from batchnorm.study.records import Run, Runs, Store


def run_plan(
    plan: Plan,
    out: Path,
    *,
    data_directory: Path | None,
    workers: int,
    progress: Callable[[int, int], None],
) -> None:
    """Run what is missing of `plan` and record it in `out/records.jsonl`.

    May be stopped at any moment, also by a kill: the next call with the same settings goes on.

    Args:
        plan: the experiments.
        out: directory of the records.
        data_directory: the full set's files; None takes the embedded images.
        workers: number of processes, one thread each.
        progress: called with the optimizer steps done and the total, at the start and after each run.

    Raises:
        StudyError: the data, the device or the records do not fit; another process writes to `out`.
    """
    check_device(plan.device)
    images = data.load(data_directory)
    store = Store(out / "records.jsonl")
    with exclusive(out):
        runs = store.open(conditions.header(plan, images), conditions.session(workers)).runs
        try:
            _run_all(plan, data_directory, workers, store, runs, progress)
        finally:
            store.close()


def _run_all(
    plan: Plan,
    data_directory: Path | None,
    workers: int,
    store: Store,
    runs: Runs,
    progress: Callable[[int, int], None],
) -> None:
    experiments = plan.experiments
    steps = {experiment.name: plan.steps_of(experiment) for experiment in experiments}
    total = sum(
        steps[e.name] * len(e.arms) * (len(e.rates) * e.sweep_seeds + plan.seeds_of(e)) for e in experiments
    )
    sweep = plan.sweep()
    done = sum(
        steps[run.job.experiment]
        for e in experiments
        for s in ("sweep", "confirm")
        for run in runs.select(e.name, s)
    )
    progress(done, total)

    def finish(jobs: Sequence[Job]) -> None:
        nonlocal done
        missing = [job for job in jobs if job not in runs]
        for run in execute(missing, steps, data_directory, plan.device, workers):
            store.add(run)
            runs.add(run)
            done += steps[run.job.experiment]
            progress(done, total)

    finish(sweep)
    finish(
        [
            job
            for e in experiments
            for job in plan.confirm(e, [measure.chosen_rate(e, runs, arm.name) for arm in e.arms])
        ]
    )


def execute(
    jobs: Sequence[Job], steps: dict[str, int], data_directory: Path | None, device: str, workers: int
) -> Iterator[Run]:
    """Yield each run as it finishes."""
    if not jobs:
        return
    with _without_interrupts():
        parallel = joblib.Parallel(
            n_jobs=workers,
            backend="loky",
            inner_max_num_threads=1,
            return_as="generator_unordered",
            # one at a time, so that what is lost on a stop is at most one run a process
            batch_size=cast("Any", 1),
            pre_dispatch="2*n_jobs",
        )
        results = parallel(
            joblib.delayed(_in_worker)(job, steps[job.experiment], data_directory, device, os.getpid())
            for job in jobs
        )
    yield from cast("Iterator[Run]", results)


@contextlib.contextmanager
def _without_interrupts() -> Generator[None]:
    """Block SIGINT, so that processes started meanwhile never get it: Ctrl-C goes to the whole group."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_worker(job: Job, steps: int, data_directory: Path | None, device: str, parent: int) -> Run:
    _set_up_worker(parent)
    experiment = registry.get(job.experiment)
    return experiment.run(experiment, job, _parts(data_directory, device), steps)


@functools.cache
def _set_up_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    # after a SIGKILL of the parent nobody tells its workers; without this they would train on for nothing
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


@functools.cache
def _parts(data_directory: Path | None, device: str) -> data.Parts:
    return data.prepare(data.load(data_directory), device)


def check_device(device: str) -> None:
    """Raise unless a small tensor can be put on `device`."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise StudyError(f"--device {device} cannot be used: {reason} Use --device cpu.") from error


@contextlib.contextmanager
def exclusive(out: Path) -> Generator[None]:
    """Hold `out` against a second study.

    Raises:
        StudyError: another process holds it, or it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(out / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        raise StudyError(
            f"Another study is writing to {out}. Wait for it, or name another directory with --out."
        ) from error
    except OSError as error:
        raise StudyError(f"Cannot write to {out}: {error}. Name another directory with --out.") from error
    try:
        yield
    finally:
        lock.release()
