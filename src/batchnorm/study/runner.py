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
from joblib.externals.loky.process_executor import TerminatedWorkerError

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
    with exclusive(out), contextlib.closing(store):
        runs = store.open(conditions.header(plan, images)).runs
        done, total = sum(map(plan.steps, runs.jobs())), plan.total_steps()
        progress(done, total)
        started = False
        for jobs in _stages(plan, runs):
            missing = [job for job in jobs if job not in runs]
            if missing and not started:
                store.start(conditions.session(workers))
                started = True
            for run in execute(plan, missing, data_directory, workers):
                store.add(run)
                runs.add(run)
                done += plan.steps(run.job)
                progress(done, total)


def _stages(plan: Plan, runs: Runs) -> Iterator[list[Job]]:
    """Yield the jobs of the sweep, then, once these are in `runs`, those at the rates that it chose."""
    yield plan.sweep()
    yield [
        job
        for e in plan.experiments
        for job in plan.confirm(e, [measure.chosen_rate(e, runs, arm.name) for arm in e.arms])
    ]


def execute(plan: Plan, jobs: Sequence[Job], data_directory: Path | None, workers: int) -> Iterator[Run]:
    """Yield each run as it finishes.

    Raises:
        StudyError: a worker was ended from outside.
    """
    if not jobs:
        return
    with _without_interrupts():
        parallel = joblib.Parallel(
            n_jobs=min(workers, len(jobs)),
            backend="loky",
            inner_max_num_threads=1,
            return_as="generator_unordered",
            # one at a time, so that what is lost on a stop is at most one run a process
            batch_size=cast("Any", 1),
            pre_dispatch="2*n_jobs",
        )
        results = parallel(
            joblib.delayed(_in_worker)(job, plan.steps(job), data_directory, plan.device, os.getpid())
            for job in jobs
        )
    try:
        yield from cast("Iterator[Run]", results)
    except TerminatedWorkerError as error:
        raise StudyError(
            "A worker process was ended from outside, perhaps because memory ran out. Finished runs are kept; "
            "give the same command again, with fewer --workers if memory is short."
        ) from error


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
    torch.set_num_threads(1)
    if os.getpid() == parent:
        # a single worker is the study's own process: it hears Ctrl-C itself, and has no parent to outlive
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
