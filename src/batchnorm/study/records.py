"""The records of a study: JSON lines, one a finished run, that survive a kill at any moment.

The first line is the header with everything that the numbers depend on; a study goes on only under the same
header. Each start that makes runs adds a `session` line, each finished run a `run` line, flushed to the disk
before the next one counts as done. A last line that was cut while it was written is dropped on the next
start.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from batchnorm.study.errors import RecordsError
from batchnorm.study.experiment import Job, Stage

FORMAT = 1


@dataclass(frozen=True)
class Point:
    """One evaluation: after `step` steps and `seconds` of training, without the evaluations."""

    step: int
    seconds: float
    accuracy: float
    loss: float | None


@dataclass(frozen=True)
class Run:
    """One finished run. `curve` holds evaluations on test images; `validation` is the accuracy at the end.

    A run whose loss stopped being finite ends there, with the accuracy of chance.
    """

    job: Job
    curve: tuple[Point, ...]
    validation: float
    seconds: float
    diverged: bool

    def to_line(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return {
            "kind": "run",
            **dataclasses.asdict(self.job),
            "curve": [list(dataclasses.astuple(point)) for point in self.curve],
            "validation": self.validation,
            "seconds": self.seconds,
            "diverged": self.diverged,
        }

    @staticmethod
    def from_line(line: Mapping[str, Any]) -> "Run":
        """Return the run that `to_line` wrote."""
        job = Job(line["experiment"], cast(Stage, line["stage"]), line["arm"], line["rate"], line["seed"])
        curve = tuple(Point(*point) for point in line["curve"])
        return Run(job, curve, line["validation"], line["seconds"], line["diverged"])


class Runs:
    """The finished runs of a study, in the order of their jobs, whatever the order in which they finished."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._by_job = {run.job: run for run in runs}

    def __contains__(self, job: Job) -> bool:
        return job in self._by_job

    def __len__(self) -> int:
        return len(self._by_job)

    def add(self, run: Run) -> None:
        """Add one finished run."""
        self._by_job[run.job] = run

    def jobs(self) -> list[Job]:
        """Return the jobs that are done."""
        return list(self._by_job)

    def select(self, experiment: str, stage: str, arm: str | None = None) -> list[Run]:
        """Return the runs of one stage of an experiment, in a fixed order."""
        found = [
            run
            for job, run in self._by_job.items()
            if job.experiment == experiment and job.stage == stage and arm in (None, job.arm)
        ]
        return sorted(found, key=lambda run: run.job)


@dataclass(frozen=True)
class Study:
    """What a records file says: the header, each start, and the runs."""

    header: Mapping[str, Any]
    sessions: tuple[Mapping[str, Any], ...]
    runs: Runs


class Store:
    """The records file of one output directory; only one process writes to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def open(self, header: Mapping[str, Any]) -> Study:
        """Start a records file, or go on with one that has the same header; return what it holds.

        Raises:
            RecordsError: the file was made with another header, or is damaged before its last line.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(_dumps({"kind": "header", "format": FORMAT, **header}))
        complete = cut_torn_line(self.path.read_bytes()) if self.path.exists() else b""
        if complete:
            study = parse(complete, self.path)
            differing = list(_differences(study.header, wanted))
            if differing:
                raise RecordsError(
                    f"{self.path} holds a study with other settings ("
                    + "; ".join(differing)
                    + "). Give the same settings to go on with it, or name another directory with --out."
                )
        if self.path.exists():
            os.truncate(self.path, len(complete))
        self._file = self.path.open("ab")
        if not complete:
            self._append(wanted)
        return parse(self.path.read_bytes(), self.path)

    def start(self, session: Mapping[str, Any]) -> None:
        """Note that runs are about to be made, and under which conditions."""
        self._append({"kind": "session", **session})

    def add(self, run: Run) -> None:
        """Append one finished run and wait until it is on the disk."""
        self._append(run.to_line())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            raise RecordsError(f"{self.path} is not open.")
        try:
            self._file.write(_dumps(line).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise RecordsError(
                f"Cannot write to {self.path}: {error.strerror}. What was written before is kept; "
                f"make room and give the same command again."
            ) from error


def read(path: Path) -> Study:
    """Read a records file, complete or cut.

    Raises:
        RecordsError: there is no file, or it is damaged before its last line.
    """
    if not path.is_file():
        raise RecordsError(f"{path} does not exist. `batchnorm study --out {path.parent}` writes it.")
    complete = cut_torn_line(path.read_bytes())
    if not complete:
        raise RecordsError(f"{path} has no complete line. Remove it and run the study again.")
    return parse(complete, path)


def cut_torn_line(content: bytes) -> bytes:
    """Return `content` up to its last complete line: a line is written whole or has no line break yet."""
    return content[: content.rfind(b"\n") + 1]


def parse(content: bytes, path: Path) -> Study:
    """Return the study written in `content`.

    Raises:
        RecordsError: a line is not a record.
    """
    lines = [_record(text, number, path) for number, text in enumerate(content.splitlines(), start=1)]
    header = next((line for line in lines if line["kind"] == "header"), None)
    if header is None or header.get("format") != FORMAT:
        raise RecordsError(
            f"{path} is not a records file of format {FORMAT}. Name another directory with --out."
        )
    sessions = tuple(line for line in lines if line["kind"] == "session")
    return Study(header, sessions, Runs(line["run"] for line in lines if line["kind"] == "run"))


def _record(text: bytes, number: int, path: Path) -> Mapping[str, Any]:
    """Return one line as plain values; a run's line has the `Run` under "run"."""
    try:
        line = json.loads(text)
        return {"kind": "run", "run": Run.from_line(line)} if line["kind"] == "run" else line
    except (ValueError, KeyError, TypeError) as error:
        raise RecordsError(
            f"{path}, line {number} is not a record of a study ({error}). "
            f"Remove the line to lose only that run, or name another directory with --out."
        ) from error


def _dumps(line: Mapping[str, Any]) -> str:
    # strict JSON: a loss that is not finite is written as null by whoever makes the record
    return json.dumps(line, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> Iterable[str]:
    for key in sorted({*found, *wanted}):
        have, want = found.get(key), wanted.get(key)
        if isinstance(have, dict) and isinstance(want, dict):
            yield from _differences(
                cast("dict[str, Any]", have), cast("dict[str, Any]", want), f"{path}{key}."
            )
        elif have != want:
            yield f"{path}{key}: {have!r} there, {want!r} now"
